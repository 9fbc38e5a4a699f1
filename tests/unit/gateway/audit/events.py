"""Audit events for tests."""

from __future__ import annotations

from adapter_store.types import TenantId
from gateway.audit.record import AuditCount, AuditEvent, AuditKind


def event(number: int = 0) -> AuditEvent:
    """Return an event that is told from others by its request id."""
    return AuditEvent(
        AuditKind.REQUEST_COMPLETED,
        actor="0123456789abcdef",
        tenant=TenantId("acme"),
        subject="a" * 64,
        request_id=f"req-{number}",
        code="stop",
        counts={AuditCount.PROMPT_TOKENS: number, AuditCount.COMPLETION_TOKENS: 3},
    )
