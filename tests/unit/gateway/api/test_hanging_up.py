"""A client that hangs up stops the engine, in every phase, within a tenth of a second."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from gateway.audit.record import AuditCount, AuditKind, AuditOutcome
from tests.fakes.engine import Behaviour, Normal, Wedged
from tests.fakes.services import ACME_KEY
from tests.unit.gateway.api.conftest import Stack, StartStack
from tests.unit.gateway.api.test_inference import CHAT

ABORT_WITHIN_S = 2.0
"""Long before any of these answers would have ended; the time itself (milliseconds on a machine
with nothing else to do) is for a benchmark to measure."""
SLOW = Normal(tokens=("word ",) * 400, gap_s=0.02)


def send(stack: Stack, body: dict[str, Any]) -> socket.socket:
    """Send a request as bytes, so that hanging up is ours to time."""
    payload = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ACME_KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", stack.port), timeout=5)
    connection.sendall(head.encode() + payload)
    return connection


def hang_up(stack: Stack, connection: socket.socket) -> float:
    """Close the connection; return how long the engine took to notice."""
    hung_up_at = time.monotonic()
    connection.close()
    assert stack.engine.hung_up.wait(5), "the engine was never told"
    return stack.engine.hung_up_at - hung_up_at


def wait_for_completion(stack: Stack) -> Any:
    for _ in range(200):
        if records := stack.domain.audit.of(AuditKind.REQUEST_COMPLETED):
            return records[0]
        time.sleep(0.01)
    raise AssertionError("the end was never recorded")


@pytest.mark.parametrize(
    ("phase", "stream", "behaviour"),
    [
        ("before the head", True, Wedged(None)),
        ("before the first token", True, Normal(first_s=30)),
        ("in mid-stream", True, SLOW),
        ("in a whole answer", False, Normal(first_s=30)),
        ("in a whole answer, before the head", False, Wedged(None)),
    ],
)
def test_hanging_up_aborts_the_engine(
    stack: Stack, phase: str, stream: bool, behaviour: Behaviour
) -> None:
    stack.engine.behaviour = behaviour
    connection = send(stack, {**CHAT, "stream": stream})
    assert stack.engine.begun.wait(5)
    if phase == "in mid-stream":
        received = b""
        while received.count(b"data: ") < 3:
            received += connection.recv(65536)
    else:
        time.sleep(0.05)
    assert hang_up(stack, connection) < ABORT_WITHIN_S
    record = wait_for_completion(stack)
    assert record.outcome is AuditOutcome.ABORTED
    if phase == "in mid-stream":
        assert 1 <= record.counts[AuditCount.COMPLETION_TOKENS] < 400


def test_a_slow_audit_does_not_delay_the_abort(stack: Stack) -> None:
    stack.engine.behaviour = SLOW
    connection = send(stack, {**CHAT, "stream": True})
    assert stack.engine.begun.wait(5)
    stack.domain.audit.delay_s = 1.0
    assert hang_up(stack, connection) < ABORT_WITHIN_S


def test_hanging_up_in_the_queue_never_reaches_the_engine(start_stack: StartStack) -> None:
    stack = start_stack(max_concurrent_requests=1, max_queued_requests=5)
    stack.engine.behaviour = SLOW
    first = send(stack, {**CHAT, "stream": True})
    assert stack.engine.begun.wait(5)
    waiting = send(stack, CHAT)
    time.sleep(0.1)
    assert stack.domain.metrics.queue_depth.collect()  # declared
    waiting.close()
    time.sleep(0.1)
    first.close()
    time.sleep(0.2)
    assert len(stack.engine.requests) == 1
    # The permit is free again.
    stack.engine.behaviour = Normal()
    with stack.client() as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_a_full_house_says_so_and_when_to_come_back(start_stack: StartStack) -> None:
    stack = start_stack(max_concurrent_requests=1, max_queued_requests=0)
    stack.engine.behaviour = SLOW
    held = send(stack, {**CHAT, "stream": True})
    assert stack.engine.begun.wait(5)
    with stack.client() as client:
        response = client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
    assert response.headers["retry-after"] == "1"
    held.close()


def test_a_client_that_stops_reading_is_given_up(start_stack: StartStack) -> None:
    stack = start_stack(send_timeout_s=0.3)
    stack.engine.behaviour = Normal(tokens=("x" * 200_000,) * 200)
    connection = send(stack, {**CHAT, "stream": True})
    assert stack.engine.hung_up.wait(5)
    assert wait_for_completion(stack).outcome is AuditOutcome.ABORTED
    connection.close()
