"""Every kind of bad input: its own clear error in OpenAI's shape, and nothing at the engine."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.audit.record import AuditKind
from tests.fakes.services import ACME_KEY, ADMIN_KEY, READER_KEY
from tests.unit.gateway.api.conftest import Stack
from tests.unit.gateway.api.test_inference import CHAT, TEXT

CHAT_PATH = "/v1/chat/completions"


def error_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"]
    return error


def post(stack: Stack, content: Any, path: str = CHAT_PATH, **headers: str) -> Any:
    with stack.client() as client:
        sent = {"content-type": "application/json", **headers}
        return client.post(path, content=content, headers=sent)


@pytest.fixture(autouse=True)
def the_engine_is_not_bothered(stack: Stack) -> Iterator[None]:
    yield
    assert stack.engine.requests == []
    assert {event.kind for event in stack.domain.audit.events} <= {AuditKind.REQUEST_REFUSED}


def test_a_refused_request_is_recorded_once_with_who_asked_and_why(stack: Stack) -> None:
    error_of(post(stack, b"nonsense"), 400)
    unknown = json.dumps({**CHAT, "model": "nowhere"}).encode()
    error_of(post(stack, unknown), 404)
    first, second = stack.domain.audit.events
    assert (first.tenant, first.code) == ("acme", "invalid_request")
    assert (second.tenant, second.code) == ("acme", "model_not_found")
    assert first.actor == second.actor == "acmekey"
    assert first.subject is None  # what was asked for is a stranger's text


def test_a_refusal_that_cannot_be_recorded_is_no_answer(stack: Stack) -> None:
    stack.domain.audit.failing.add(AuditKind.REQUEST_REFUSED)
    assert error_of(post(stack, b"nonsense"), 503)["code"] == "audit_unavailable"


def test_who_has_no_key_cannot_make_the_log_grow(stack: Stack) -> None:
    with stack.client("nobody") as client:
        assert client.post(CHAT_PATH, json=CHAT).status_code == 401
    assert stack.domain.audit.events == []


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"nonsense", "invalid_json", None),
        (b"\xef\xbb\xbf{}", "invalid_json", None),
        (b'{"model":"support","temperature":NaN}', "invalid_json", None),
        (
            b'{"model":"support","messages":[{"role":"user","content":"\xff"}]}',
            "invalid_utf8",
            None,
        ),
        (b'{"model":"support","user":"\xff","messages":[]}', "invalid_utf8", None),
        (b"[" * 100_000, "invalid_type", None),
        (b'{"user":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "invalid_json", None),
        (b"[]", "invalid_type", None),
        (b"null", "invalid_type", None),
        (b"{}", "missing_field", "model"),
        (b'{"model":"support"}', "missing_field", "messages"),
        (b'{"model":7}', "invalid_type", "model"),
        (b'{"model":null}', "invalid_type", "model"),
        (b'{"model":""}', "invalid_type", "model"),
    ],
)
def test_what_is_not_a_request_is_refused(
    stack: Stack, content: bytes, code: str, param: str | None
) -> None:
    error = error_of(post(stack, content), 400)
    assert (error["code"], error["param"]) == (code, param)


@pytest.mark.parametrize(
    ("changed", "code", "param"),
    [
        ({"messages": []}, "invalid_type", "messages"),
        ({"messages": "hi"}, "invalid_type", "messages"),
        ({"messages": [{"content": "x"}]}, "missing_field", "messages[0].role"),
        ({"messages": [{"role": "root", "content": "x"}]}, "invalid_type", "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "invalid_type", "messages[0].content"),
        ({"messages": [{"role": "user", "x": 7}]}, "unknown_field", "messages[0].x"),
        ({"temperature": "hot"}, "invalid_type", "temperature"),
        ({"temperature": 10**400}, "invalid_type", "temperature"),
        ({"max_tokens": 1.5}, "invalid_type", "max_tokens"),
        ({"max_tokens": -1}, "invalid_type", "max_tokens"),
        ({"n": 0}, "invalid_type", "n"),
        ({"n": 10_000}, "invalid_type", "n"),
        ({"stop": [1]}, "invalid_type", "stop[0]"),
        ({"stop": ["x"] * 17}, "invalid_type", "stop"),
        ({"stream": "yes"}, "invalid_type", "stream"),
        ({"stream_options": {"x": 1}}, "unknown_field", "stream_options.x"),
        ({"max_tokenz": 5}, "unknown_field", "max_tokenz"),
        ({"lora_path": "/etc/passwd"}, "unknown_field", "lora_path"),
    ],
)
def test_a_wrong_field_is_named(
    stack: Stack, changed: dict[str, Any], code: str, param: str
) -> None:
    error = error_of(post(stack, json.dumps({**CHAT, **changed})), 400)
    assert (error["code"], error["param"]) == (code, param)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}},
        {"type": "video_url", "video_url": {"url": "file:///etc/passwd"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    ],
)
def test_nothing_that_the_engine_would_fetch_is_passed_on(
    stack: Stack, part: dict[str, Any]
) -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": [part]}]}
    assert error_of(post(stack, json.dumps(body)), 400)["param"] == "messages[0].content[0].type"


@pytest.mark.parametrize(
    "prompt", [7, None, [], {"a": 1}, [[]] * 3000, ["x", 1], [["x"]], ["x"] * 3000]
)
def test_a_prompt_of_another_shape_is_refused(stack: Stack, prompt: Any) -> None:
    body = json.dumps({**TEXT, "prompt": prompt})
    assert error_of(post(stack, body, "/v1/completions"), 400)["param"].startswith("prompt")


@pytest.mark.parametrize(
    "content",
    [
        b'{"model":"support","model":"legal","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"support","messages":[{"role":"user","content":"x","content":"y"}]}',
        b'{"model":"support","messages":[{"role":"user","content":"x"}],"user":{"a":1,"\\u0061":2}}',
        b'{"model":"support","\\u006dodel":"m","messages":[{"role":"user","content":"x"}]}',
    ],
)
def test_duplicate_keys_are_refused_at_any_depth(stack: Stack, content: bytes) -> None:
    assert error_of(post(stack, content), 400)["code"] == "duplicate_key"


def test_a_body_beyond_the_limit_is_refused_when_declared(stack: Stack) -> None:
    response = post(stack, b" " * 300_000)
    assert error_of(response, 413)["code"] == "payload_too_large"
    assert response.headers["connection"] == "close"


def test_a_body_beyond_the_limit_is_refused_when_counted(stack: Stack) -> None:
    chunks = (b" " * 10_000 for _ in range(30))
    assert error_of(post(stack, chunks), 413)["code"] == "payload_too_large"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_compressed_bodies_are_refused(stack: Stack, encoding: str) -> None:
    content = gzip.compress(json.dumps(CHAT).encode())
    response = post(stack, content, **{"content-encoding": encoding})
    assert error_of(response, 415)["code"] == "unsupported_media_type"


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_declared_as_json_is_refused(stack: Stack, media_type: str) -> None:
    response = post(stack, json.dumps(CHAT), **{"content-type": media_type})
    assert error_of(response, 415)["code"] == "unsupported_media_type"


def raw_exchange(stack: Stack, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    with socket.create_connection(("127.0.0.1", stack.port), timeout=5) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause_s)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
            head, _, body = answer.partition(b"\r\n\r\n")
            if b"content-length: %d" % len(body) in head.lower():
                break
        return answer


HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"authorization: Bearer " + ACME_KEY.encode() + b"\r\ncontent-length: 1000\r\n\r\n"
)


def test_a_body_that_stalls_times_out(stack: Stack) -> None:
    began = time.monotonic()
    answer = raw_exchange(stack, HEAD, b'{"model":')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer
    assert 0.8 < time.monotonic() - began < 3


def test_a_body_that_trickles_times_out_as_well(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", stack.port), timeout=5) as connection:
        connection.sendall(HEAD)
        began = time.monotonic()
        connection.settimeout(0.1)
        answer = b""
        while not answer and time.monotonic() - began < 4:
            connection.sendall(b" ")
            try:
                answer = connection.recv(4096)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_hangs_up_in_its_own_body_leaves_nothing(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", stack.port), timeout=5) as connection:
        connection.sendall(HEAD + b'{"model"')
    with stack.client() as client:
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1/nope", 404, "unknown_url"),
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("GET", "/docs", 404, "unknown_url"),
        ("GET", CHAT_PATH, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("OPTIONS", CHAT_PATH, 405, "method_not_allowed"),
    ],
)
def test_unknown_urls_and_methods_have_the_same_shape(
    stack: Stack, method: str, path: str, status: int, code: str
) -> None:
    with stack.client() as client:
        response = client.request(method, path)
    assert error_of(response, status)["code"] == code
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        f"Basic {ACME_KEY}",
        ACME_KEY,
        f"Bearer {ACME_KEY[:-1]}",
        f"Bearer {ACME_KEY}x",
        "Bearer tsk_test_unknown",
        "Bearer \xe9",
    ],
)
def test_every_bad_key_gets_the_same_bytes(stack: Stack, header: str | None) -> None:
    with stack.client(None) as client:
        headers = {"authorization": header.encode("latin-1")} if header is not None else {}
        for path in (CHAT_PATH, "/v1/models", "/admin/v1/keys", "/nowhere"):
            response = client.post(path, headers=headers)
            assert error_of(response, 401)["code"] == "invalid_api_key"
            assert response.content == client.post(path).content
            assert response.headers["www-authenticate"].startswith("Bearer")


def test_two_keys_in_one_request_are_none(stack: Stack) -> None:
    pairs = [("authorization", f"Bearer {ACME_KEY}")] * 2
    with stack.client(None) as client:
        error_of(client.get("/v1/models", headers=pairs), 401)


@pytest.mark.parametrize(
    ("key", "method", "path"),
    [
        (READER_KEY, "POST", CHAT_PATH),
        (READER_KEY, "GET", "/v1/models"),
        (READER_KEY, "POST", "/v1/adapters"),
        (READER_KEY, "GET", "/admin/v1/tenants"),
        (ACME_KEY, "POST", "/admin/v1/keys"),
        (ACME_KEY, "GET", "/admin/v1/audit"),
        (ADMIN_KEY, "POST", CHAT_PATH),
        (ADMIN_KEY, "POST", "/v1/adapters"),
    ],
)
def test_a_key_without_the_scope_is_forbidden(
    stack: Stack, key: str, method: str, path: str
) -> None:
    with stack.client(key) as client:
        assert error_of(client.request(method, path), 403)["code"] == "insufficient_scope"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(value=JSON, field=st.sampled_from(["messages", "model", "stop", "tools", "stream_options"]))
def test_any_json_in_any_field_is_a_client_error(stack: Stack, value: Any, field: str) -> None:
    body = {**CHAT, "model": "missing", field: value}
    response = post(stack, json.dumps(body))
    error_of(response, 404 if response.status_code == 404 else 400)
