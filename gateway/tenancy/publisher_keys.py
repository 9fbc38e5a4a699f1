"""Publisher keys: whose signatures a tenant trusts on its packages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Row, insert, select, update

from adapter_store.tssp.signing import PublisherPublicKey
from adapter_store.types import TenantId
from gateway.audit.log import AuditLog
from gateway.audit.record import AuditEvent, AuditKind
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.db.tables import publisher_keys
from gateway.db.transaction import Transaction
from gateway.errors import ConflictError, NotFoundError
from gateway.tenancy.labels import check_label
from gateway.tenancy.principal import Principal
from gateway.tenancy.tenants import find_tenant


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
        check_label(label, "label")
        async with self._database.write() as connection:
            owner = (await find_tenant(connection, tenant, lock=True)).id
            known = await _find(connection, owner, public_key.key_id)
            if known is not None and known.revoked_at is not None:
                raise ConflictError("this publisher key was revoked")
            if known is not None:
                return known
            new = RegisteredPublisherKey(owner, public_key, label, self._clock.now(), None)
            await connection.execute(insert(publisher_keys).values(_values(new)))
            event = _event(AuditKind.PUBLISHER_KEY_REGISTERED, actor, new)
            await self._audit.append_within(connection, event)
        return new

    async def revoke(self, actor: Principal, tenant: str, key_id: str) -> RegisteredPublisherKey:
        """Accept no more packages signed by this key. Repeatable. Raises NotFoundError.

        Adapters that it signed before stay; revoke them by themselves if the key was stolen.
        """
        async with self._database.write() as connection:
            owner = (await find_tenant(connection, tenant, lock=True)).id
            known = await _find(connection, owner, key_id)
            if known is None:
                raise NotFoundError("there is no such publisher key")
            if known.revoked_at is not None:
                return known
            revoked = replace(known, revoked_at=self._clock.now())
            await connection.execute(
                update(publisher_keys)
                .where(publisher_keys.c.tenant == owner, publisher_keys.c.key_id == key_id)
                .values(revoked_at=revoked.revoked_at)
            )
            event = _event(AuditKind.PUBLISHER_KEY_REVOKED, actor, revoked)
            await self._audit.append_within(connection, event)
        return revoked

    async def trusted(self, tenant: TenantId) -> tuple[PublisherPublicKey, ...]:
        """Return the keys whose packages this tenant accepts now."""
        keys = await self.list(tenant)
        return tuple(key.public_key for key in keys if key.revoked_at is None)

    async def list(self, tenant: str) -> list[RegisteredPublisherKey]:
        """Return a tenant's keys, oldest first; raises NotFoundError for the tenant."""
        query = (
            select(publisher_keys)
            .where(publisher_keys.c.tenant == tenant)
            .order_by(publisher_keys.c.created_at, publisher_keys.c.key_id)
        )
        async with self._database.read() as connection:
            await find_tenant(connection, tenant)
            return [_key(row) for row in await connection.execute(query)]


async def _find(
    connection: Transaction, tenant: TenantId, key_id: str
) -> RegisteredPublisherKey | None:
    query = select(publisher_keys).where(
        publisher_keys.c.tenant == tenant, publisher_keys.c.key_id == key_id
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _key(row)


def _event(kind: AuditKind, actor: Principal, key: RegisteredPublisherKey) -> AuditEvent:
    return AuditEvent(kind, actor=actor.key_id, tenant=key.tenant, subject=key.public_key.key_id)


def _values(key: RegisteredPublisherKey) -> dict[str, object]:
    return {
        "tenant": key.tenant,
        "key_id": key.public_key.key_id,
        "label": key.label,
        "public_key": key.public_key.to_json().decode(),
        "created_at": key.created_at,
    }


def _key(row: Row[tuple[object, ...]]) -> RegisteredPublisherKey:
    return RegisteredPublisherKey(
        tenant=TenantId(row.tenant),
        public_key=PublisherPublicKey.from_json(row.public_key.encode()),
        label=row.label,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
