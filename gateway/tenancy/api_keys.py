"""API keys: issued once, kept only as a MAC, rotated with an overlap, revoked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from adapter_store.types import TenantId
from gateway.audit.log import AuditLog
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.tenancy.key_text import KeyText, Pepper
from gateway.tenancy.principal import Principal
from gateway.tenancy.scopes import Scope


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What may be shown about a key: everything but its secret."""

    key_id: str
    tenant: TenantId | None
    label: str
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key with its text, which is shown this once: `issued.text.reveal()`."""

    key: ApiKey
    text: KeyText


class ApiKeys:
    """The API keys in the database. Every method raises StoreUnavailableError as well."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        clock: Clock,
        *,
        pepper: Pepper,
        environment: str,
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        self._pepper = pepper
        self._environment = environment

    async def issue(
        self,
        actor: Principal,
        *,
        tenant: str | None,
        scopes: Collection[Scope],
        label: str = "",
        expires_at: datetime | None = None,
    ) -> IssuedKey:
        """Make a key for `tenant`, or an administrator's without one.

        Raises NotFoundError for the tenant, InvalidRequestError for an expiry that has passed,
        or for a tenant key with the scope `admin`.
        """
        raise NotImplementedError

    async def rotate(self, actor: Principal, key_id: str, *, overlap_s: float) -> IssuedKey:
        """Make a successor with the same rights; the old key works for `overlap_s` more.

        Raises NotFoundError, ConflictError for a key that is revoked, expired or rotated.
        """
        raise NotImplementedError

    async def revoke(self, actor: Principal, key_id: str) -> ApiKey:
        """Stop a key, everywhere within the cache TTL. Repeatable. Raises NotFoundError."""
        raise NotImplementedError

    async def get(self, key_id: str) -> ApiKey:
        """Return a key; raises NotFoundError."""
        raise NotImplementedError

    async def list(self, tenant: str | None = None) -> list[ApiKey]:
        """Return the keys of a tenant, or all, oldest first."""
        raise NotImplementedError
