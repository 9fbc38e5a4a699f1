"""What keeps adapters in order: renews records, finishes what was begun, sweeps leftovers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from adapter_store.errors import AdapterStoreError, InvalidNameError
from adapter_store.ingest import PackageIngest
from adapter_store.objects import paths
from adapter_store.objects.store import ObjectStore
from adapter_store.types import Digest, TenantId, parse_digest, parse_tenant_id
from gateway.adapters import repository
from gateway.adapters.settlement import Settlement
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.errors import GatewayError

INTERVAL_S = 15.0
SWEEP_EVERY = timedelta(minutes=5)

STAGING_AGE = timedelta(hours=1)
"""An upload that has written nothing for so long has ended."""

ORPHAN_AGE = timedelta(minutes=2)
"""A package is in the store some milliseconds before it has its row; this is far longer."""

_PAGE = 200
_log = structlog.get_logger(__name__)


class AdapterMaintenance:
    """Runs beside the service; every step may be repeated and may run on several replicas."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        ingest: PackageIngest,
        settlement: Settlement,
        clock: Clock,
    ) -> None:
        self._database = database
        self._objects = objects
        self._ingest = ingest
        self._settlement = settlement
        self._clock = clock
        self._sweep_at = clock.now()

    async def run(self) -> None:
        """Work until cancelled; what fails is logged and tried again."""
        while True:
            await self.run_once()
            await asyncio.sleep(INTERVAL_S)

    async def run_once(self) -> None:
        """Do everything that is due now; one step's failure does not keep others from theirs."""
        await self._attempt("records", self._settle_due)
        await self._attempt("evictions", self._evict)
        if self._clock.now() >= self._sweep_at:
            self._sweep_at = self._clock.now() + SWEEP_EVERY
            await self._attempt("staging", self._sweep_staging)
            await self._attempt("orphans", self._sweep_orphans)

    async def _attempt(self, step: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (GatewayError, AdapterStoreError) as error:
            _log.warning("maintenance_postponed", step=step, code=error.code)

    async def _settle_due(self) -> None:
        async with self._database.read() as connection:
            due = await repository.due_records(connection, self._clock.now())
            due += await repository.unpurged(connection)
        for adapter in {(each.tenant, each.digest): each for each in due}.values():
            await self._settlement.attempt(adapter)

    async def _evict(self) -> None:
        async with self._database.read() as connection:
            dead = await repository.pending_evictions(connection)
        await self._settlement.evict(dead)

    async def _sweep_staging(self) -> None:
        await self._ingest.sweep(before=self._clock.now() - STAGING_AGE)

    async def _sweep_orphans(self) -> None:
        """Delete packages that no row accounts for: their upload was killed in between."""
        newest: dict[tuple[TenantId, Digest], datetime] = {}
        async for item in self._objects.list(paths.TENANTS):
            package = _package_of(item.path)
            if package is not None:
                newest[package] = max(item.modified_at, newest.get(package, item.modified_at))
        before = self._clock.now() - ORPHAN_AGE
        old = [package for package, modified_at in newest.items() if modified_at < before]
        for start in range(0, len(old), _PAGE):
            page = old[start : start + _PAGE]
            async with self._database.read() as connection:
                known = await repository.with_objects(connection, page)
            for tenant, digest in set(page) - known:
                await self._ingest.remove(tenant, digest)
                _log.info("orphan_removed", digest=digest)


def _package_of(path: str) -> tuple[TenantId, Digest] | None:
    """Return whose package an object belongs to, None for what is not laid out like one."""
    match path.split("/"):
        case [paths.TENANTS, tenant, "packages", digest, _]:
            try:
                return parse_tenant_id(tenant), parse_digest(digest)
            except InvalidNameError:
                return None
        case _:
            return None
