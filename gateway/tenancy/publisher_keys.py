"""Publisher keys: whose signatures a tenant trusts on its packages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from adapter_store.types import TenantId
from gateway.audit.log import AuditLog
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.tenancy.principal import Principal

if TYPE_CHECKING:
    from adapter_store.tssp.signing import PublisherPublicKey


@dataclass(frozen=True, slots=True)
class RegisteredPublisherKey:
    """A publisher key that a tenant trusts, or once trusted."""

    tenant: TenantId
    public_key: PublisherPublicKey
    label: str
    created_at: datetime
    revoked_at: datetime | None


class PublisherKeys:
    """The publisher keys in the database. Every method raises StoreUnavailableError as well."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock

    async def register(
        self, actor: Principal, tenant: str, public_key: PublisherPublicKey, *, label: str = ""
    ) -> RegisteredPublisherKey:
        """Trust a key for a tenant's packages from now on.

        Repeating it with a trusted key changes nothing. Raises NotFoundError for the tenant,
        ConflictError for a key that was revoked: a revoked key never comes back.
        """
        raise NotImplementedError

    async def list(self, tenant: str) -> list[RegisteredPublisherKey]:
        """Return a tenant's keys, oldest first; raises NotFoundError for the tenant."""
        raise NotImplementedError

    async def revoke(self, actor: Principal, tenant: str, key_id: str) -> RegisteredPublisherKey:
        """Accept no more packages signed by this key. Repeatable. Raises NotFoundError.

        Adapters that it signed before stay; revoke them by themselves if the key was stolen.
        """
        raise NotImplementedError

    async def trusted(self, tenant: TenantId) -> tuple[PublisherPublicKey, ...]:
        """Return the keys whose packages this tenant accepts now."""
        raise NotImplementedError
