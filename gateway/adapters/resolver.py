"""From the model name that a tenant calls to the adapter that it means now."""

from __future__ import annotations

from adapter_store.types import TenantId
from gateway.adapters import repository
from gateway.adapters.lifecycle import AdapterState
from gateway.adapters.models import Adapter, ResolvedAdapter
from gateway.adapters.reference import Named, no_such_adapter, parse_alias
from gateway.cache import ExpiringCache
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.errors import NotFoundError

MAX_CACHED_ALIASES = 10_000


class AdapterResolver:
    """Resolves names, from a memory of seconds; every answer is within one tenant."""

    def __init__(self, database: Database, clock: Clock, *, ttl_s: float) -> None:
        self._database = database
        self._known: ExpiringCache[tuple[TenantId, str], ResolvedAdapter] = ExpiringCache(
            self._load, clock, ttl_s=ttl_s, max_entries=MAX_CACHED_ALIASES
        )

    async def resolve(self, tenant: TenantId, model: str) -> ResolvedAdapter:
        """Return what `model` (`name` or `name@7`) means; raises NotFoundError."""
        parse_alias(model)  # what cannot be a name is not looked up, nor remembered
        found = await self._known.get((tenant, model))
        if found is None:
            raise no_such_adapter()
        return found

    async def served(self, tenant: TenantId) -> tuple[ResolvedAdapter, ...]:
        """Return everything that the tenant can call by its bare name, by name."""
        async with self._database.read() as connection:
            found = await repository.served_by(connection, tenant)
        return tuple(_resolved(adapter, adapter.name) for adapter in found)

    def forget(self, adapter: Adapter) -> None:
        """Look up the adapter's names again when they are next called."""
        for alias in (adapter.name, f"{adapter.name}@{adapter.version}"):
            self._known.invalidate((adapter.tenant, alias))

    async def _load(self, key: tuple[TenantId, str]) -> ResolvedAdapter | None:
        tenant, model = key
        alias = parse_alias(model)
        try:
            async with self._database.read() as connection:
                adapter = await repository.get(connection, tenant, alias)
        except NotFoundError:
            return None
        callable_now = adapter.state is AdapterState.ACTIVE
        if not callable_now or (isinstance(alias, Named) and not adapter.served):
            return None
        return _resolved(adapter, model)


def _resolved(adapter: Adapter, alias: str) -> ResolvedAdapter:
    return ResolvedAdapter(
        alias=alias,
        name=adapter.name,
        version=adapter.version,
        digest=adapter.digest,
        engine_name=adapter.engine_name,
        created_at=adapter.created_at,
    )
