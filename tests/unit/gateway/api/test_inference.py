"""Chat and completions, from a client's socket to the engine's and back."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx2
import pytest

from gateway.audit.record import AuditCount, AuditKind, AuditOutcome
from tests.fakes.engine import Normal
from tests.fakes.services import (
    ACME_KEY,
    BASE_MODEL,
    GLOBEX_KEY,
    SUPPORT_DIGEST,
)
from tests.unit.gateway.api.conftest import Stack

CHAT: dict[str, Any] = {"model": "support", "messages": [{"role": "user", "content": "Hi"}]}
TEXT: dict[str, Any] = {"model": "support", "prompt": "Once"}
CALLS = pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)]
)


def events(response: httpx2.Response) -> list[str]:
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    return [frame.removeprefix("data: ") for frame in response.text.split("\n\n") if frame]


@CALLS
def test_the_engine_is_asked_by_the_digest_and_answers_by_the_alias(
    stack: Stack, path: str, body: dict[str, Any]
) -> None:
    with stack.client() as client:
        response = client.post(path, json=body)
    assert response.status_code == 200
    assert response.json()["model"] == "support"
    asked = stack.engine.requests[0]
    assert asked.path == path
    assert asked.body["model"] == f"ts-acme-{SUPPORT_DIGEST}-0"
    assert "authorization" not in asked.headers
    assert ACME_KEY not in str(asked)


@CALLS
def test_a_stream_is_the_same_answer_in_frames(
    stack: Stack, path: str, body: dict[str, Any]
) -> None:
    with stack.client() as client:
        frames = events(client.post(path, json={**body, "stream": True}))
    assert frames.pop() == "[DONE]"
    chunks = [json.loads(frame) for frame in frames]
    assert {chunk["model"] for chunk in chunks} == {"support"}
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)
    texts = [
        choice["text"] if "text" in choice else choice["delta"].get("content", "")
        for chunk in chunks
        for choice in chunk["choices"]
    ]
    assert "".join(texts) == "Hello, world!"


def test_the_usage_chunk_comes_to_those_who_ask(stack: Stack) -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    with stack.client() as client:
        frames = events(client.post("/v1/chat/completions", json=body))
    last = json.loads(frames[-2])
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    assert not any("usage" in json.loads(frame) for frame in frames[:-2])


def test_frames_arrive_as_they_are_made(stack: Stack) -> None:
    stack.engine.behaviour = Normal(gap_s=0.1)
    arrivals: list[float] = []
    with (
        stack.client() as client,
        client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response,
    ):
        lines = response.iter_lines()
        arrivals.extend(time.monotonic() for line in lines if line.startswith("data: {"))
    assert arrivals[-1] - arrivals[1] > 0.2


def test_what_only_an_operator_may_set_does_not_reach_the_engine(stack: Stack) -> None:
    foreign = {
        "cache_salt": "victim",
        "priority": -100,
        "vllm_xargs": {"a": 1},
        "kv_transfer_params": {"b": 2},
        "lora_request": {"path": "/etc"},
        "chat_template": "{{ 1 }}",
        "request_id": "x",
        "structured_outputs": {"regex": "(a+)+"},
        "user": "somebody@example.com",
    }
    with stack.client() as client:
        assert client.post("/v1/chat/completions", json={**CHAT, **foreign}).status_code == 200
    asked = stack.engine.requests[0].body
    assert asked.keys() == {"model", "messages", "cache_salt"}
    assert asked["cache_salt"] != "victim"


def test_sampling_fields_reach_the_engine_as_they_are(stack: Stack) -> None:
    sampling = {
        "temperature": 0.25,
        "top_p": 0.5,
        "max_tokens": 3,
        "stop": ["\n", "é"],
        "seed": 2**40,
        "logit_bias": {"50": -100},
        "top_k": 4,
        "n": 2,
    }
    with stack.client() as client:
        assert client.post("/v1/completions", json={**TEXT, **sampling}).status_code == 200
    asked = stack.engine.requests[0].body
    assert {name: asked[name] for name in sampling} == sampling


def test_tenants_have_their_own_salts_for_the_same_model(stack: Stack) -> None:
    for key in (ACME_KEY, GLOBEX_KEY, ACME_KEY):
        with stack.client(key) as client:
            response = client.post("/v1/completions", json={**TEXT, "model": BASE_MODEL})
            assert response.json()["model"] == BASE_MODEL
    first, other, again = (request.body["cache_salt"] for request in stack.engine.requests)
    assert first == again != other


@CALLS
def test_not_yours_and_not_there_are_the_same_bytes(
    stack: Stack, path: str, body: dict[str, Any]
) -> None:
    answers = []
    with stack.client(GLOBEX_KEY) as client:
        for model in ("support", "no-such-model", "support@1", "../x", "UPPER", "tsk_live_x"):
            response = client.post(path, json={**body, "model": model})
            headers = {
                name: value
                for name, value in response.headers.items()
                if name not in {"x-request-id", "date"}
            }
            answers.append((response.status_code, response.content, headers))
    assert answers[0][0] == 404
    assert all(answer == answers[0] for answer in answers)
    assert json.loads(answers[0][1])["error"]["code"] == "model_not_found"
    assert stack.engine.requests == []


def test_models_are_the_base_and_the_tenants_own(stack: Stack) -> None:
    with stack.client(GLOBEX_KEY) as client:
        listed = client.get("/v1/models").json()
        one = client.get("/v1/models/legal").json()
        foreign, missing = client.get("/v1/models/support"), client.get("/v1/models/nothing")
        assert client.get(f"/v1/models/{BASE_MODEL}").json()["id"] == BASE_MODEL
    assert [model["id"] for model in listed["data"]] == [BASE_MODEL, "legal"]
    assert one in listed["data"]
    assert (foreign.status_code, foreign.content) == (404, missing.content)


def test_a_request_leaves_two_records_and_no_content(stack: Stack) -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": "canary-prompt"}]}
    with stack.client() as client:
        client.post("/v1/chat/completions", json=body, headers={"x-request-id": "my-id-1"})
    started, completed = stack.domain.audit.events
    assert (started.kind, completed.kind) == (
        AuditKind.REQUEST_STARTED,
        AuditKind.REQUEST_COMPLETED,
    )
    assert (completed.tenant, completed.actor) == ("acme", "acmekey")
    assert (completed.subject, completed.request_id) == (SUPPORT_DIGEST, "my-id-1")
    assert (completed.outcome, completed.code) == (AuditOutcome.OK, "stop")
    assert completed.counts[AuditCount.PROMPT_TOKENS] == 7
    assert completed.counts[AuditCount.COMPLETION_TOKENS] == 4
    assert "canary" not in repr(stack.domain.audit.events)


def test_without_an_audit_record_nothing_is_asked_of_the_engine(stack: Stack) -> None:
    stack.domain.audit.failing = {AuditKind.REQUEST_STARTED}
    with stack.client() as client:
        for stream in (False, True):
            response = client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "audit_unavailable"
            assert "disk full" not in response.text
    assert stack.engine.requests == []


def test_an_answer_that_is_out_stays_out_when_its_end_cannot_be_recorded(stack: Stack) -> None:
    stack.domain.audit.failing = {AuditKind.REQUEST_COMPLETED}
    with stack.client() as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        metrics = client.get("/metrics").text
    assert 'tensafe_audit_failures_total{kind="request.completed"}' in metrics


def test_request_ids_are_taken_made_and_sent_back(stack: Stack) -> None:
    with stack.client() as client:
        for given in ("abc-123", "bad id!", "x" * 65, "-starts-wrong", None):
            headers = {"x-request-id": given} if given else {}
            returned = client.get("/v1/models", headers=headers).headers["x-request-id"]
            assert (returned == given) is (given == "abc-123")
            assert len(returned) <= 64


def test_security_headers_are_on_every_answer(stack: Stack) -> None:
    with stack.client() as client:
        for path in ("/health", "/v1/models", "/nowhere", "/metrics"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert "x-request-id" in headers
