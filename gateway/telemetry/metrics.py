"""Every metric, declared once, each label bounded.

Nothing here carries a prompt, an adapter's name or, unless the operator asks for it, a tenant's:
tenants appear under a keyed pseudonym, and only the first `MAX_TENANTS` of them by themselves.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from adapter_store.types import TenantId
from gateway.telemetry.pseudonyms import Pseudonyms

MAX_TENANTS: Final = 500
"""Tenants with a series of their own; the rest share `other`."""

# The GenAI conventions' buckets for time to first token and for whole operations, joined.
_SECONDS: Final = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
_AUDIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 2.0)


class Metrics:
    """The instruments, in a registry of their own."""

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        self.registry = CollectorRegistry()
        self._pseudonyms = pseudonyms
        self._tenants: dict[TenantId, str] = {}
        self.http_requests = self._counter(
            "tensafe_http_requests", "Answered requests", ("route", "status")
        )
        self.rejections = self._counter(
            "tensafe_rejections", "Requests refused, by the error's code", ("reason",)
        )
        self.inference_latency = self._histogram(
            "tensafe_inference_latency_seconds",
            "Inference requests from arrival to the last byte",
            ("endpoint", "target", "outcome"),
        )
        self.time_to_first_token = self._histogram(
            "tensafe_time_to_first_token_seconds",
            "Streamed requests from arrival to the first frame",
            ("endpoint", "target"),
        )
        self.inference_tokens = self._counter(
            "tensafe_inference_tokens",
            "Tokens read and generated",
            ("tenant", "target", "direction"),
        )
        self.inference_requests = self._counter(
            "tensafe_inference_requests", "Inference requests", ("tenant", "target", "outcome")
        )
        self.queue_depth = Gauge(
            "tensafe_request_queue_depth",
            "Inference requests that wait for a turn",
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "tensafe_requests_in_flight",
            "Inference requests at the engine",
            registry=self.registry,
        )
        self.audit_latency = self._histogram(
            "tensafe_audit_latency_seconds",
            "Waiting for an audit record to be durable",
            (),
            _AUDIT_SECONDS,
        )
        self.audit_failures = self._counter(
            "tensafe_audit_failures", "Audit records that could not be written", ("kind",)
        )
        self.engine_failures = self._counter(
            "tensafe_engine_failures", "Requests that the engine failed", ("target", "code")
        )

    def tenant_label(self, tenant: TenantId) -> str:
        """Return the label under which this tenant is counted."""
        label = self._tenants.get(tenant)
        if label is None:
            if len(self._tenants) >= MAX_TENANTS:
                return "other"
            label = self._tenants[tenant] = self._pseudonyms.of(tenant)
        return label

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        buckets: tuple[float, ...] = _SECONDS,
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
