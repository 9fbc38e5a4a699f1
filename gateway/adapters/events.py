"""The audit events of adapters."""

from __future__ import annotations

from gateway.adapters.models import Adapter
from gateway.audit.record import AuditCount, AuditEvent, AuditKind, AuditOutcome
from gateway.tenancy.principal import Principal


def adapter_event(
    kind: AuditKind,
    actor: Principal | None,
    adapter: Adapter,
    *,
    outcome: AuditOutcome = AuditOutcome.OK,
    code: str | None = None,
) -> AuditEvent:
    """Return what `actor` (None: the gateway itself) did to an adapter, as it is afterwards."""
    counts = {
        AuditCount.VERSION: adapter.version,
        AuditCount.EPOCH: adapter.epoch,
        AuditCount.SIZE_BYTES: adapter.size_bytes,
    }
    if adapter.generation is not None:
        counts[AuditCount.GENERATION] = adapter.generation
    return AuditEvent(
        kind,
        outcome=outcome,
        actor=None if actor is None else actor.key_id,
        tenant=adapter.tenant,
        subject=adapter.digest,
        code=code,
        counts=counts,
    )
