"""Planted secrets that must turn up nowhere: logs, errors, metrics, records, headers."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest

from gateway.audit.record import AuditKind
from tests.fakes.engine import (
    Behaviour,
    Malformed,
    Normal,
    Status,
    StreamError,
)
from tests.fakes.services import ACME_KEY, GLOBEX_KEY, SUPPORT_DIGEST
from tests.unit.gateway.api.conftest import Stack

PROMPT = "c4n4ry-prompt-text"
ANSWER = "c4n4ry-answer-text"
ENGINE_NAME = f"ts-acme-{SUPPORT_DIGEST}-0"
ENGINE_PATH = "/srv/c4n4ry/engine.sock"


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what follows an answer: its line in the log."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "behaviour",
    [
        Normal(tokens=(ANSWER, ANSWER)),
        Status(500, f"{ENGINE_NAME} {ENGINE_PATH} {PROMPT}"),
        Status(503, f"{ENGINE_NAME} {ENGINE_PATH} {PROMPT}"),
        StreamError(2, 500, f"{ENGINE_NAME} {ENGINE_PATH} {PROMPT}"),
        Malformed(2, f"data: {{{PROMPT} {ENGINE_NAME}\n\n".encode()),
    ],
    ids=lambda behaviour: type(behaviour).__name__,
)
def test_nothing_planted_turns_up(
    stack: Stack, log_lines: StringIO, behaviour: Behaviour, stream: bool
) -> None:
    log_lines.seek(0)
    log_lines.truncate(0)
    stack.engine.behaviour = behaviour
    body: dict[str, Any] = {
        "model": "support",
        "stream": stream,
        "messages": [{"role": "user", "content": PROMPT}],
    }
    with stack.client() as client:
        answer = client.post(f"/v1/chat/completions?key={ACME_KEY}", json=body)
        client.post(f"/v1/{ACME_KEY}/{PROMPT}", json=body)
        client.get(f"/v1/models/{PROMPT}")
        client.post("/v1/chat/completions", json={**body, PROMPT: 1, "model": PROMPT})
        client.post("/v1/chat/completions", content=PROMPT)
        metrics = client.get("/metrics").text
    wait_until(lambda: log_lines.getvalue().count('"event":"request"') >= 6)
    logs = log_lines.getvalue()
    for place in (logs, metrics, repr(stack.domain.audit.events)):
        for secret in (PROMPT, ANSWER, ACME_KEY, GLOBEX_KEY, ENGINE_NAME, ENGINE_PATH, "s3cr3t"):
            assert secret not in place
    for place in (logs, metrics):
        assert "acme" not in place.replace("acmekey", "")
        assert SUPPORT_DIGEST not in place
    assert '"support"' not in metrics
    if not isinstance(behaviour, Normal):
        for secret in (PROMPT, ENGINE_NAME, ENGINE_PATH):
            assert secret not in answer.text


def test_a_bug_in_a_request_shows_its_type_and_place_and_nothing_else(
    stack: Stack, log_lines: StringIO
) -> None:
    log_lines.seek(0)
    log_lines.truncate(0)
    stack.domain.adapters.error = ZeroDivisionError(f"{ACME_KEY} {PROMPT}")
    with stack.client() as client:
        body = {"model": "support", "messages": [{"role": "user", "content": PROMPT}]}
        response = client.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    wait_until(lambda: "ZeroDivisionError" in log_lines.getvalue())
    logs = log_lines.getvalue()
    for secret in (PROMPT, ACME_KEY):
        assert secret not in logs + response.text


def test_the_canary_would_be_found(stack: Stack, log_lines: StringIO) -> None:
    """The negative control: what may be seen is seen, so looking works."""
    log_lines.seek(0)
    log_lines.truncate(0)
    with stack.client() as client:
        body = {"model": "support", "messages": [{"role": "user", "content": PROMPT}]}
        client.post("/v1/chat/completions", json=body, headers={"x-request-id": "c4n4ry-id"})
    wait_until(lambda: "c4n4ry-id" in log_lines.getvalue())
    assert stack.domain.audit.of(AuditKind.REQUEST_STARTED)[0].request_id == "c4n4ry-id"
    assert PROMPT.encode() in stack.engine.requests[0].raw
    assert ENGINE_NAME.encode() in stack.engine.requests[0].raw
