"""What remains of a request: its audit records and its numbers, and nothing that was said."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from adapter_store.types import TenantId
from gateway.api.context import RequestContext
from gateway.audit.log import AuditLog
from gateway.audit.record import AuditCount, AuditEvent, AuditKind, AuditOutcome
from gateway.clock import Clock
from gateway.errors import AuditUnavailableError, GatewayError, InvalidRequestError
from gateway.routing.answers import Tally
from gateway.routing.targets import Target
from gateway.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

_FINISH_REASON = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(slots=True)
class Exchange:
    """One request on its way, and what became of it."""

    context: RequestContext
    tenant: TenantId
    endpoint: str
    target: Target
    tally: Tally = field(default_factory=Tally)
    outcome: AuditOutcome = AuditOutcome.FAILED
    code: str | None = None

    def succeed(self) -> None:
        """The whole answer is with the client."""
        self.outcome = AuditOutcome.OK
        reason = self.tally.finish_reason
        self.code = reason if reason and _FINISH_REASON.fullmatch(reason) else None

    def fail(self, error: GatewayError) -> None:
        """It ended with an error, which the client was told."""
        refused = isinstance(error, InvalidRequestError)
        self.outcome = AuditOutcome.REFUSED if refused else AuditOutcome.FAILED
        self.code = error.code
        self.context.error_code = error.code

    def abort(self) -> None:
        """The client went away, or the gateway is being stopped."""
        self.outcome = AuditOutcome.ABORTED
        self.code = None


class Recorder:
    """Writes the two records of a request, and counts it."""

    def __init__(self, audit: AuditLog, metrics: Metrics, clock: Clock) -> None:
        self._audit = audit
        self._metrics = metrics
        self._clock = clock

    @asynccontextmanager
    async def refusals(self, context: RequestContext, tenant: TenantId) -> AsyncIterator[None]:
        """Record a request that ends in here, before it is forwarded; its error goes on.

        Raises AuditUnavailableError instead when that cannot be recorded.
        """
        try:
            yield
        except GatewayError as error:
            event = AuditEvent(
                kind=AuditKind.REQUEST_REFUSED,
                outcome=AuditOutcome.REFUSED,
                actor=context.caller.key_id,
                tenant=tenant,
                request_id=context.request_id,
                code=error.code,
            )
            await self._append(event)
            raise

    async def started(self, exchange: Exchange) -> None:
        """Record that the request is about to be forwarded.

        Raises AuditUnavailableError: it must then not be forwarded.
        """
        await self._append(self._event(exchange, AuditKind.REQUEST_STARTED, AuditOutcome.OK))
        self._metrics.in_flight.inc()

    def first_frame(self, exchange: Exchange) -> None:
        """Measure the time to the first frame of a stream."""
        self._metrics.time_to_first_token.labels(exchange.endpoint, exchange.target.kind).observe(
            self._elapsed_s(exchange)
        )

    async def completed(self, exchange: Exchange) -> None:
        """Record and count how the request ended. Never raises: the answer is out already."""
        self._metrics.in_flight.dec()
        self._count(exchange)
        exchange.context.outcome = exchange.outcome
        event = self._event(
            exchange,
            AuditKind.REQUEST_COMPLETED,
            exchange.outcome,
            code=exchange.code,
            counts={
                AuditCount.PROMPT_TOKENS: exchange.tally.prompt_tokens,
                AuditCount.COMPLETION_TOKENS: exchange.tally.completion_tokens,
                AuditCount.DURATION_MS: int(self._elapsed_s(exchange) * 1000),
            },
        )
        try:
            await self._append(event)
        except AuditUnavailableError:
            # The started record stands and says that tokens may have been served; this is an alert.
            _log.error("completion_not_recorded", request_id=exchange.context.request_id)

    async def _append(self, event: AuditEvent) -> None:
        began = self._clock.monotonic()
        try:
            await self._audit.append(event)
        except AuditUnavailableError:
            self._metrics.audit_failures.labels(event.kind).inc()
            raise
        finally:
            self._metrics.audit_latency.observe(self._clock.monotonic() - began)

    def _event(
        self,
        exchange: Exchange,
        kind: AuditKind,
        outcome: AuditOutcome,
        *,
        code: str | None = None,
        counts: dict[AuditCount, int] | None = None,
    ) -> AuditEvent:
        return AuditEvent(
            kind=kind,
            outcome=outcome,
            actor=exchange.context.caller.key_id,
            tenant=exchange.tenant,
            subject=exchange.target.digest or "base",
            request_id=exchange.context.request_id,
            code=code,
            counts=counts or {},
        )

    def _count(self, exchange: Exchange) -> None:
        target, outcome = exchange.target.kind, str(exchange.outcome)
        tenant = self._metrics.tenant_label(exchange.tenant)
        self._metrics.inference_requests.labels(tenant, target, outcome).inc()
        self._metrics.inference_latency.labels(exchange.endpoint, target, outcome).observe(
            self._elapsed_s(exchange)
        )
        if exchange.outcome is AuditOutcome.FAILED:
            self._metrics.engine_failures.labels(target, exchange.code or "internal_error").inc()
        tokens = self._metrics.inference_tokens
        tokens.labels(tenant, target, "prompt").inc(exchange.tally.prompt_tokens)
        tokens.labels(tenant, target, "completion").inc(exchange.tally.completion_tokens)

    def _elapsed_s(self, exchange: Exchange) -> float:
        return self._clock.monotonic() - exchange.context.started_s
