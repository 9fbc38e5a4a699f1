"""Tenants: who may own keys and adapters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from adapter_store.errors import InvalidNameError
from adapter_store.types import TenantId, parse_tenant_id
from gateway.audit.log import AuditLog
from gateway.audit.record import AuditEvent, AuditKind
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.db.tables import tenants
from gateway.db.transaction import Transaction
from gateway.errors import ConflictError, InvalidRequestError, NotFoundError
from gateway.tenancy.labels import check_label
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
        created = Tenant(
            id=_parse(tenant),
            display_name=check_label(display_name, "display_name"),
            created_at=self._clock.now(),
            disabled_at=None,
        )
        event = AuditEvent(AuditKind.TENANT_CREATED, actor=actor.key_id, tenant=created.id)
        try:
            async with self._database.write() as connection:
                await connection.execute(
                    insert(tenants).values(
                        id=created.id,
                        display_name=created.display_name,
                        created_at=created.created_at,
                    )
                )
                await self._audit.append_within(connection, event)
        except IntegrityError as error:
            raise ConflictError(f"the tenant '{created.id}' exists already") from error
        return created

    async def get(self, tenant: str) -> Tenant:
        """Return a tenant; raises NotFoundError."""
        async with self._database.read() as connection:
            return await find_tenant(connection, tenant)

    async def disable(self, actor: Principal, tenant: str) -> Tenant:
        """Stop serving a tenant: its keys no longer authenticate. Repeatable; NotFoundError."""
        async with self._database.write() as connection:
            found = await find_tenant(connection, tenant, lock=True)
            if found.disabled_at is not None:
                return found
            await connection.execute(
                update(tenants)
                .where(tenants.c.id == found.id)
                .values(disabled_at=self._clock.now())
            )
            event = AuditEvent(AuditKind.TENANT_DISABLED, actor=actor.key_id, tenant=found.id)
            await self._audit.append_within(connection, event)
        return await self.get(found.id)

    async def list(self) -> list[Tenant]:
        """Return every tenant by name."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(tenants).order_by(tenants.c.id))
            return [_tenant(row) for row in rows]


async def find_tenant(connection: Transaction, tenant: str, *, lock: bool = False) -> Tenant:
    """Return a tenant as this transaction sees it; raises NotFoundError.

    `lock` makes others who lock it wait until this transaction ends.
    """
    query = select(tenants).where(tenants.c.id == tenant)
    if lock:
        query = query.with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFoundError("there is no such tenant")
    return _tenant(row)


def _parse(text: str) -> TenantId:
    try:
        return parse_tenant_id(text)
    except InvalidNameError as error:
        raise InvalidRequestError(str(error), param="id") from error


def _tenant(row: Row[tuple[object, ...]]) -> Tenant:
    return Tenant(
        id=TenantId(row.id),
        display_name=row.display_name,
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )
