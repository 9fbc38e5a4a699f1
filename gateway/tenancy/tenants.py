"""Tenants: who may own keys and adapters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from adapter_store.types import TenantId
from gateway.audit.log import AuditLog
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.tenancy.principal import Principal


@dataclass(frozen=True, slots=True)
class Tenant:
    """An owner of keys and adapters."""

    id: TenantId
    display_name: str
    created_at: datetime
    disabled_at: datetime | None


class Tenants:
    """The tenants in the database. Every method raises StoreUnavailableError as well."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock

    async def create(self, actor: Principal, tenant: str, *, display_name: str = "") -> Tenant:
        """Create a tenant; raises ConflictError if it exists, InvalidRequestError for its name."""
        raise NotImplementedError

    async def get(self, tenant: str) -> Tenant:
        """Return a tenant; raises NotFoundError."""
        raise NotImplementedError

    async def list(self) -> list[Tenant]:
        """Return every tenant by name."""
        raise NotImplementedError

    async def disable(self, actor: Principal, tenant: str) -> Tenant:
        """Stop serving a tenant: its keys no longer authenticate. Repeatable; NotFoundError."""
        raise NotImplementedError
