"""Probes and metrics."""

from __future__ import annotations

import re
import time

from tests.fakes.engine import Status
from tests.fakes.services import ACME_KEY
from tests.unit.gateway.api.conftest import Stack
from tests.unit.gateway.api.test_inference import CHAT

REQUIRED = (
    "tensafe_inference_latency_seconds",
    "tensafe_inference_tokens_total",
    "tensafe_request_queue_depth",
    "tensafe_time_to_first_token_seconds",
    "tensafe_rejections_total",
    "tensafe_audit_latency_seconds",
)


def test_probes_need_no_key_and_say_no_names(stack: Stack) -> None:
    with stack.client(None) as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/metrics").status_code == 200


def test_readiness_follows_what_requests_need(stack: Stack) -> None:
    with stack.client(None) as client:
        for part, checks in (
            (stack.domain.pool, {"database": "ok", "pool": "failed"}),
            (stack.domain.database, {"database": "failed", "pool": "ok"}),
        ):
            time.sleep(1.05)
            part.away = True
            response = client.get("/readiness")
            assert (response.status_code, response.json()["checks"]) == (503, checks)
            assert client.get("/health").status_code == 200
            part.away = False
        time.sleep(1.05)
        assert client.get("/readiness").json()["status"] == "ready"


def test_every_promised_metric_is_there_and_counts(stack: Stack) -> None:
    with stack.client() as client:
        client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        client.post("/v1/chat/completions", json={**CHAT, "model": "none"})
        text = client.get("/metrics").text
    for name in REQUIRED:
        assert name in text
    assert re.search(
        r'tokens_total\{direction="completion",target="adapter",tenant="t-\w+"\} ', text
    )
    assert 'tensafe_rejections_total{reason="model_not_found"}' in text


def test_failures_of_the_engine_are_counted_and_nothing_stays_in_flight(stack: Stack) -> None:
    stack.engine.behaviour = Status(500)
    with stack.client() as client:
        client.post("/v1/chat/completions", json=CHAT)
        text = client.get("/metrics").text
    assert 'tensafe_engine_failures_total{code="engine_failed",target="adapter"}' in text
    assert "tensafe_requests_in_flight 0.0" in text


def test_strangers_cannot_make_labels(stack: Stack) -> None:
    with stack.client() as client:
        before = len(client.get("/metrics").text.splitlines())
        for number in range(50):
            client.get(f"/v1/models/m{number}")
            client.request(f"X{number}", f"/x{number}")
            client.get("/v1/models", headers={"authorization": f"Bearer {ACME_KEY}{number}"})
        after = len(client.get("/metrics").text.splitlines())
    assert after - before < 20
