"""API keys: issued once, kept only as a MAC, rotated with an overlap, revoked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Row, insert, select, update

from adapter_store.types import TenantId
from gateway.audit.log import AuditLog
from gateway.audit.record import AuditEvent, AuditKind
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.db.tables import api_keys
from gateway.db.transaction import Transaction
from gateway.errors import ConflictError, InvalidRequestError, NotFoundError
from gateway.tenancy.key_text import KeyText, Pepper
from gateway.tenancy.labels import check_label
from gateway.tenancy.principal import Principal
from gateway.tenancy.scopes import Scope
from gateway.tenancy.tenants import find_tenant

MAX_OVERLAP_S = 30 * 24 * 3600
"""A rotation that takes longer than a month is not one."""


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
        _check_rights(tenant, scopes)
        now = self._clock.now()
        if expires_at is not None and expires_at <= now:
            raise InvalidRequestError("expected an expiry in the future", param="expires_at")
        key = self._new(tenant, frozenset(scopes), check_label(label, "label"), expires_at)
        async with self._database.write() as connection:
            if tenant is not None:
                await find_tenant(connection, tenant)
            await self._insert(connection, key)
            await self._audit.append_within(
                connection, _event(AuditKind.KEY_ISSUED, actor, key.key)
            )
        return key

    async def rotate(self, actor: Principal, key_id: str, *, overlap_s: float) -> IssuedKey:
        """Make a successor with the same rights; the old key works for `overlap_s` more.

        Raises NotFoundError, ConflictError for a key that is revoked, expired or rotated.
        """
        if not 0 <= overlap_s <= MAX_OVERLAP_S:
            raise InvalidRequestError(
                f"expected an overlap of 0 to {MAX_OVERLAP_S} s", param="overlap_s"
            )
        now = self._clock.now()
        async with self._database.write() as connection:
            old = await _find(connection, key_id, lock=True)
            expired = old.expires_at is not None and old.expires_at <= now
            if old.revoked_at is not None or old.replaced_by is not None or expired:
                raise ConflictError("only a key that is in use can be rotated")
            new = self._new(old.tenant, old.scopes, old.label, old.expires_at)
            end = now + timedelta(seconds=overlap_s)
            await self._insert(connection, new)
            await connection.execute(
                update(api_keys)
                .where(api_keys.c.key_id == key_id)
                .values(
                    replaced_by=new.key.key_id,
                    expires_at=end if old.expires_at is None else min(end, old.expires_at),
                )
            )
            await self._audit.append_within(connection, _event(AuditKind.KEY_ROTATED, actor, old))
        return new

    async def revoke(self, actor: Principal, key_id: str) -> ApiKey:
        """Stop a key, everywhere within the cache TTL. Repeatable. Raises NotFoundError."""
        async with self._database.write() as connection:
            key = await _find(connection, key_id, lock=True)
            if key.revoked_at is not None:
                return key
            revoked = replace(key, revoked_at=self._clock.now())
            await connection.execute(
                update(api_keys)
                .where(api_keys.c.key_id == key_id)
                .values(revoked_at=revoked.revoked_at)
            )
            await self._audit.append_within(connection, _event(AuditKind.KEY_REVOKED, actor, key))
        return revoked

    async def get(self, key_id: str) -> ApiKey:
        """Return a key; raises NotFoundError."""
        async with self._database.read() as connection:
            return await _find(connection, key_id)

    async def list(self, tenant: str | None = None) -> list[ApiKey]:
        """Return the keys of a tenant, or all, oldest first."""
        query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        async with self._database.read() as connection:
            return [_key(row) for row in await connection.execute(query)]

    def _new(
        self,
        tenant: str | None,
        scopes: frozenset[Scope],
        label: str,
        expires_at: datetime | None,
    ) -> IssuedKey:
        text = KeyText.generate(self._environment)
        key = ApiKey(
            key_id=text.key_id,
            tenant=None if tenant is None else TenantId(tenant),
            label=label,
            scopes=scopes,
            created_at=self._clock.now(),
            expires_at=expires_at,
            revoked_at=None,
            replaced_by=None,
        )
        return IssuedKey(key=key, text=text)

    async def _insert(self, connection: Transaction, issued: IssuedKey) -> None:
        key = issued.key
        await connection.execute(
            insert(api_keys).values(
                key_id=key.key_id,
                tenant=key.tenant,
                label=key.label,
                scopes=" ".join(sorted(key.scopes)),
                mac=issued.text.mac(self._pepper),
                pepper_version=self._pepper.version,
                created_at=key.created_at,
                expires_at=key.expires_at,
            )
        )


def _check_rights(tenant: str | None, scopes: Collection[Scope]) -> None:
    """An administrator belongs to no tenant: its key must not be mistaken for a tenant's own."""
    if not scopes:
        raise InvalidRequestError("a key needs at least one scope", param="scopes")
    if tenant is not None and Scope.ADMIN in scopes:
        raise InvalidRequestError("a tenant's key cannot have the scope 'admin'", param="scopes")
    if tenant is None and not {Scope.ADMIN, Scope.AUDIT_READ} >= set(scopes):
        raise InvalidRequestError(
            "a key without a tenant can only have the scopes 'admin' and 'audit:read'",
            param="scopes",
        )


def _event(kind: AuditKind, actor: Principal, key: ApiKey) -> AuditEvent:
    return AuditEvent(kind, actor=actor.key_id, tenant=key.tenant, subject=key.key_id)


async def _find(connection: Transaction, key_id: str, *, lock: bool = False) -> ApiKey:
    query = select(api_keys).where(api_keys.c.key_id == key_id)
    if lock:  # two rotations at once must not make two successors
        query = query.with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFoundError("there is no such API key")
    return _key(row)


def _key(row: Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(
        key_id=row.key_id,
        tenant=None if row.tenant is None else TenantId(row.tenant),
        label=row.label,
        scopes=frozenset(map(Scope, row.scopes.split())),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        replaced_by=row.replaced_by,
    )
