"""An engine that misbehaves: a clear error, the right record, nothing of its insides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.audit.record import AuditCount, AuditKind, AuditOutcome
from gateway.errors import StoreUnavailableError
from tests.fakes.engine import (
    Behaviour,
    Cut,
    EndsEarly,
    Malformed,
    Normal,
    RawBody,
    Status,
    StreamError,
    Wedged,
)
from tests.fakes.services import BASE_MODEL, SUPPORT_DIGEST
from tests.unit.gateway.api.conftest import Stack, StartStack
from tests.unit.gateway.api.test_inference import CHAT, events

ENGINE_NAME = f"ts-acme-{SUPPORT_DIGEST}-0"
INSIDES = f"model {ENGINE_NAME} at /srv/weights/base/model.safetensors"


def ask(stack: Stack, *, stream: bool = False, **fields: Any) -> Any:
    with stack.client() as client:
        return client.post("/v1/chat/completions", json={**CHAT, "stream": stream, **fields})


def completed(stack: Stack) -> Any:
    (record,) = stack.domain.audit.of(AuditKind.REQUEST_COMPLETED)
    return record


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        (Status(500, INSIDES), 502, "engine_failed"),
        (Status(404, INSIDES), 502, "engine_failed"),
        (Status(503, INSIDES), 503, "overloaded"),
        (Status(429, INSIDES), 503, "overloaded"),
        (Status(400, INSIDES, "max_tokens"), 400, "invalid_request"),
        (Wedged(None), 504, "upstream_timeout"),
        (RawBody(b"<html>"), 502, "upstream_protocol_error"),
        (RawBody(b""), 502, "upstream_protocol_error"),
    ],
)
def test_a_failure_before_the_first_byte_has_a_status(
    stack: Stack, behaviour: Behaviour, status: int, code: str, stream: bool
) -> None:
    stack.engine.behaviour = behaviour
    response = ask(stack, stream=stream)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}
    assert ENGINE_NAME not in response.text
    assert "/srv" not in response.text
    assert completed(stack).code == code
    assert completed(stack).outcome is (
        AuditOutcome.REFUSED if status == 400 else AuditOutcome.FAILED
    )


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (Cut(3), "upstream_protocol_error"),
        (EndsEarly(3), "upstream_protocol_error"),
        (Wedged(3), "upstream_timeout"),
        (Malformed(3), "upstream_protocol_error"),
        (Malformed(3, b"data: \xff\xfe\n\n"), "upstream_protocol_error"),
        (Malformed(3, b'data: {"choices":[{"index":[]}]}\n\n'), "upstream_protocol_error"),
        (Malformed(3, b'data: {"object":"other"}\n\n'), "upstream_protocol_error"),
        (StreamError(3, 500, INSIDES), "engine_failed"),
        (StreamError(3, 400, INSIDES), "invalid_request"),
    ],
)
def test_a_failure_after_the_first_byte_is_an_event_and_no_done(
    stack: Stack, behaviour: Behaviour, code: str
) -> None:
    stack.engine.behaviour = behaviour
    response = ask(stack, stream=True)
    assert response.status_code == 200
    *frames, last = events(response)
    assert len(frames) == 3
    assert "[DONE]" not in response.text
    assert json.loads(last)["error"]["code"] == code
    assert ENGINE_NAME not in response.text
    assert "/srv" not in response.text
    assert completed(stack).outcome is not AuditOutcome.OK
    assert completed(stack).code == code
    assert completed(stack).counts[AuditCount.COMPLETION_TOKENS] == 2


@pytest.mark.parametrize(
    "behaviour", [StreamError(0), Malformed(0), EndsEarly(0), Wedged(0)], ids=repr
)
def test_a_stream_that_fails_before_its_first_frame_has_a_status(
    stack: Stack, behaviour: Behaviour
) -> None:
    stack.engine.behaviour = behaviour
    response = ask(stack, stream=True)
    assert response.status_code in {502, 504}
    assert response.headers["content-type"] == "application/json"


def test_a_whole_answer_that_is_cut_is_a_bad_gateway(stack: Stack) -> None:
    stack.engine.behaviour = Cut()
    assert ask(stack).status_code == 502


@pytest.mark.parametrize(
    ("behaviour", "reported"),
    [
        (Status(500), True),
        (Status(404), True),
        (StreamError(2), True),
        (Status(400), False),
        (Status(503), False),
        (Cut(2), False),
        (Normal(), False),
    ],
    ids=repr,
)
def test_an_adapter_under_which_the_engine_fails_is_renewed(
    stack: Stack, behaviour: Behaviour, reported: bool
) -> None:
    stack.engine.behaviour = behaviour
    ask(stack, stream=True)
    assert [each.digest for each in stack.domain.adapters.reported] == [SUPPORT_DIGEST] * reported


def test_the_base_model_is_never_renewed(stack: Stack) -> None:
    stack.engine.behaviour = Status(500)
    ask(stack, model=BASE_MODEL)
    assert stack.domain.adapters.reported == []


def test_an_adapter_that_cannot_be_renewed_does_not_hide_the_error(stack: Stack) -> None:
    async def fail(_: object) -> None:
        raise StoreUnavailableError("down")

    stack.domain.adapters.report_engine_failure = fail  # type: ignore[method-assign]
    try:
        stack.engine.behaviour = Status(500)
        assert ask(stack).json()["error"]["code"] == "engine_failed"
    finally:
        del stack.domain.adapters.__dict__["report_engine_failure"]


def test_the_engine_recovers_and_so_does_the_gateway(stack: Stack) -> None:
    for behaviour in (Cut(1), Status(500), Malformed(1)):
        stack.engine.behaviour = behaviour
        ask(stack, stream=True)
    stack.engine.behaviour = Normal()
    assert ask(stack).status_code == 200


def test_an_engine_that_is_away_is_unavailable(start_stack: StartStack) -> None:
    stack = start_stack()
    stack.domain.pool.away = True
    response = ask(stack)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "upstream_unavailable")
    assert "control.sock" not in response.text
