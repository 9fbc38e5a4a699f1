"""The rows of adapters, aliases and pending evictions; every function works in a transaction."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, case, delete, insert, or_, select, update

from adapter_store.tssp.signing import PublisherPublicKey
from adapter_store.types import AdapterName, Digest, EngineName, TenantId
from gateway.adapters.lifecycle import ENDED, AdapterState
from gateway.adapters.models import Adapter
from gateway.adapters.reference import Named, Reference, Versioned, no_such_adapter
from gateway.db.tables import adapters, aliases, evictions
from gateway.db.transaction import Transaction
from gateway.errors import ConflictError

_SELECT = select(adapters, aliases.c.generation).outerjoin(
    aliases,
    and_(
        aliases.c.tenant == adapters.c.tenant,
        aliases.c.name == adapters.c.name,
        aliases.c.digest == adapters.c.digest,
    ),
)


async def add(connection: Transaction, adapter: Adapter) -> None:
    """Insert an uploaded adapter; sqlalchemy's IntegrityError if digest or version is taken."""
    await connection.execute(
        insert(adapters).values(
            tenant=adapter.tenant,
            digest=adapter.digest,
            name=adapter.name,
            version=adapter.version,
            state=adapter.state,
            epoch=adapter.epoch,
            size_bytes=adapter.size_bytes,
            base_model=adapter.base_model,
            description=adapter.description,
            publisher=adapter.publisher.to_json().decode(),
            created_at=adapter.created_at,
            changed_at=adapter.created_at,
        )
    )


async def get(
    connection: Transaction,
    tenant: TenantId,
    reference: Reference,
    *,
    served_first: bool = True,
    lock: bool = False,
) -> Adapter:
    """Return a tenant's adapter; raises NotFoundError.

    A bare name means the served version, then the newest (`served_first`), or the newest at
    once. A version that is rejected or shredded is found only if it has no successor. `lock`
    keeps the row from changing until the transaction ends.
    """
    query = _SELECT.where(adapters.c.tenant == tenant, _matches(reference)).limit(1)
    order = [case((adapters.c.state.in_(ENDED), 1), else_=0), adapters.c.version.desc()]
    if served_first:
        order.insert(0, case((aliases.c.generation.is_(None), 1), else_=0))
    query = query.order_by(*order, adapters.c.created_at.desc())
    if lock:
        query = query.with_for_update(of=adapters)
    found = await _all(connection, query)
    if not found:
        raise no_such_adapter()
    return found[0]


async def list_of(connection: Transaction, tenant: TenantId) -> list[Adapter]:
    """Return a tenant's adapters by name and version; shredded ones are left out."""
    query = _SELECT.where(
        adapters.c.tenant == tenant, adapters.c.state != AdapterState.SHREDDED
    ).order_by(adapters.c.name, adapters.c.version, adapters.c.created_at)
    return await _all(connection, query)


async def served_by(connection: Transaction, tenant: TenantId) -> list[Adapter]:
    """Return what the tenant's aliases mean, by name."""
    query = _SELECT.where(
        adapters.c.tenant == tenant,
        adapters.c.state == AdapterState.ACTIVE,
        aliases.c.generation.is_not(None),
    ).order_by(adapters.c.name)
    return await _all(connection, query)


async def change(connection: Transaction, adapter: Adapter, **values: Any) -> None:
    """Set columns of an adapter's row."""
    await connection.execute(
        update(adapters)
        .where(adapters.c.tenant == adapter.tenant, adapters.c.digest == adapter.digest)
        .values(**values)
    )


async def settled(connection: Transaction, adapter: Adapter, due_at: datetime | None) -> bool:
    """Note when the adapter's record is due again, unless the adapter changed meanwhile."""
    result = await connection.execute(
        update(adapters)
        .where(
            adapters.c.tenant == adapter.tenant,
            adapters.c.digest == adapter.digest,
            adapters.c.state == adapter.state,
            adapters.c.epoch == adapter.epoch,
        )
        .values(record_due_at=due_at)
    )
    return result.rowcount == 1


async def alias_generation(
    connection: Transaction, tenant: TenantId, name: AdapterName, *, lock: bool = False
) -> int:
    """Return how often an alias has moved; 0 if it never meant anything."""
    query = select(aliases.c.generation).where(aliases.c.tenant == tenant, aliases.c.name == name)
    if lock:
        query = query.with_for_update()
    return (await connection.execute(query)).scalar_one_or_none() or 0


async def move_alias(
    connection: Transaction, adapter: Adapter, expected: int, now: datetime
) -> int:
    """Make the alias mean this version if its generation is `expected`; returns the new one.

    Raises ConflictError if somebody moved it to another version meanwhile.
    """
    moved = await _compare_and_swap(connection, adapter, expected, now)
    if not moved:
        raise ConflictError(
            f"another version of '{adapter.name}' was activated meanwhile: look and try again"
        )
    return expected + 1


async def drop_alias(connection: Transaction, adapter: Adapter, now: datetime) -> None:
    """Make the alias mean nothing if it means this version; its generation is never reused."""
    await connection.execute(
        update(aliases)
        .where(aliases.c.tenant == adapter.tenant, aliases.c.digest == adapter.digest)
        .values(digest=None, generation=aliases.c.generation + 1, changed_at=now)
    )


async def request_eviction(connection: Transaction, name: EngineName, now: datetime) -> None:
    """Note that an engine name is dead; it never comes back, so this happens once."""
    await connection.execute(
        insert(evictions).values(
            engine_name=str(name), tenant=name.tenant, digest=name.digest, requested_at=now
        )
    )


async def evicted(connection: Transaction, name: EngineName) -> None:
    """Note that the engines have forgotten this name."""
    await connection.execute(delete(evictions).where(evictions.c.engine_name == str(name)))


async def pending_evictions(
    connection: Transaction, adapter: Adapter | None = None, *, limit: int = 100
) -> list[EngineName]:
    """Return the dead names that engines may still hold, oldest first."""
    query = select(evictions.c.engine_name).order_by(evictions.c.requested_at).limit(limit)
    if adapter is not None:
        query = query.where(
            evictions.c.tenant == adapter.tenant, evictions.c.digest == adapter.digest
        )
    return [EngineName.parse(name) for name in (await connection.execute(query)).scalars()]


async def due_records(connection: Transaction, now: datetime, *, limit: int = 100) -> list[Adapter]:
    """Return the adapters whose activation record is to be written now."""
    query = _SELECT.where(adapters.c.record_due_at <= now).order_by(adapters.c.record_due_at)
    return await _all(connection, query.limit(limit))


async def unpurged(connection: Transaction, *, limit: int = 100) -> list[Adapter]:
    """Return the adapters that are at their end and may still have objects."""
    query = _SELECT.where(adapters.c.state.in_(ENDED), adapters.c.purged_at.is_(None))
    return await _all(connection, query.order_by(adapters.c.changed_at).limit(limit))


async def with_objects(
    connection: Transaction, packages: Collection[tuple[TenantId, Digest]]
) -> set[tuple[TenantId, Digest]]:
    """Return which of these packages have a row that accounts for their objects."""
    wanted = or_(
        *(
            and_(adapters.c.tenant == tenant, adapters.c.digest == digest)
            for tenant, digest in packages
        )
    )
    query = select(adapters.c.tenant, adapters.c.digest).where(
        wanted, adapters.c.purged_at.is_(None)
    )
    return {(row.tenant, row.digest) for row in await connection.execute(query)}


async def _compare_and_swap(
    connection: Transaction, adapter: Adapter, expected: int, now: datetime
) -> bool:
    values = {"digest": adapter.digest, "generation": expected + 1, "changed_at": now}
    found = await alias_generation(connection, adapter.tenant, adapter.name, lock=True)
    if found != expected:
        return False
    if expected == 0:
        await connection.execute(
            insert(aliases).values(tenant=adapter.tenant, name=adapter.name, **values)
        )
        return True
    result = await connection.execute(
        update(aliases)
        .where(
            aliases.c.tenant == adapter.tenant,
            aliases.c.name == adapter.name,
            aliases.c.generation == expected,
        )
        .values(**values)
    )
    return result.rowcount == 1


def _matches(reference: Reference) -> Any:
    match reference:
        case Named(name):
            return adapters.c.name == name
        case Versioned(name, version):
            return and_(adapters.c.name == name, adapters.c.version == version)
        case digest:
            return adapters.c.digest == digest


async def _all(connection: Transaction, query: Select[Any]) -> list[Adapter]:
    return [_adapter(row) for row in await connection.execute(query)]


def _adapter(row: Row[Any]) -> Adapter:
    return Adapter(
        tenant=TenantId(row.tenant),
        name=AdapterName(row.name),
        version=row.version,
        digest=Digest(row.digest),
        state=AdapterState(row.state),
        reason=row.reason,
        epoch=row.epoch,
        size_bytes=row.size_bytes,
        base_model=row.base_model,
        description=row.description,
        publisher=PublisherPublicKey.from_json(row.publisher.encode()),
        created_at=row.created_at,
        activated_at=row.activated_at,
        epoch_changed_at=row.epoch_changed_at,
        purged_at=row.purged_at,
        generation=row.generation,
    )
