"""Makes the object store and the engines agree with what the database says of an adapter.

Every use case first changes the database, in one transaction with its audit record, and that
is when it takes effect. What follows from it elsewhere (the activation record, the engines'
memory, the objects) is done here: at once where possible, and again by maintenance until it is
done. Every step may be repeated.
"""

from __future__ import annotations

import structlog

from adapter_store.errors import AdapterStoreError
from adapter_store.ingest import PackageIngest
from adapter_store.objects.paths import PackagePaths
from adapter_store.objects.store import ObjectStore
from adapter_store.types import EngineName
from gateway.adapters import repository
from gateway.adapters.lifecycle import ENDED
from gateway.adapters.models import Adapter
from gateway.adapters.pool_control import PoolControl
from gateway.adapters.records import ActivationRecords
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.errors import GatewayError

_log = structlog.get_logger(__name__)


class Settlement:
    """Carries the database's word to the store and the pool."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        ingest: PackageIngest,
        records: ActivationRecords,
        pool: PoolControl,
        clock: Clock,
    ) -> None:
        self._database = database
        self._objects = objects
        self._ingest = ingest
        self._records = records
        self._pool = pool
        self._clock = clock

    async def attempt(self, adapter: Adapter) -> None:
        """Settle as far as possible now; maintenance does what could not be done."""
        try:
            await self.settle(adapter, first_time=True)
        except (GatewayError, AdapterStoreError) as error:
            _log.warning("settlement_postponed", digest=adapter.digest, code=error.code)

    async def settle(self, adapter: Adapter, *, first_time: bool = False) -> None:
        """Write the activation record, empty the engines, purge what is at its end.

        Raises StorageError, UpstreamError and StoreUnavailableError.
        """
        due_at = await self._records.settle(adapter, first_time=first_time)
        async with self._database.write() as connection:
            await repository.settled(connection, adapter, due_at)
            dead = await repository.pending_evictions(connection, adapter)
        if adapter.state in ENDED:
            await self._purge(adapter, dead)
        else:
            await self.evict(dead)

    async def evict(self, dead: list[EngineName]) -> None:
        """Have the engines forget names that nothing resolves to any more."""
        for name in dead:
            await self._pool.evict(name)
            async with self._database.write() as connection:
                await repository.evicted(connection, name)

    async def _purge(self, adapter: Adapter, dead: list[EngineName]) -> None:
        """Destroy the data key first, then empty the engines, then delete the objects."""
        package = PackagePaths(adapter.tenant, adapter.digest)
        for path in (package.data_key, package.recipients):
            await self._objects.delete(path)
        await self.evict(dead)
        await self._ingest.remove(adapter.tenant, adapter.digest)
        async with self._database.write() as connection:
            await repository.change(
                connection, adapter, purged_at=self._clock.now(), record_due_at=None
            )
