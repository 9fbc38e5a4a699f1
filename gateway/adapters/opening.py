"""Puts the parts of the adapter service together and keeps its maintenance running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from adapter_store.ingest import PackageIngest
from adapter_store.objects.store import ObjectStore
from adapter_store.tssp.signing import PublisherPrivateKey
from gateway.adapters.activations import Activations
from gateway.adapters.maintenance import AdapterMaintenance
from gateway.adapters.pool_control import PoolControl
from gateway.adapters.records import ActivationRecords
from gateway.adapters.resolver import AdapterResolver
from gateway.adapters.service import AdapterService
from gateway.adapters.settlement import Settlement
from gateway.adapters.uploads import Uploads
from gateway.audit.log import AuditLog
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.tenancy.publisher_keys import PublisherKeys


@asynccontextmanager
async def open_adapters(
    database: Database,
    objects: ObjectStore,
    publisher_keys: PublisherKeys,
    pool: PoolControl,
    audit: AuditLog,
    clock: Clock,
    *,
    activation_key: PublisherPrivateKey,
    max_package_bytes: int,
    alias_ttl_s: float,
) -> AsyncIterator[AdapterService]:
    """Open the adapter service; its maintenance runs until the end."""
    ingest = PackageIngest(objects)
    records = ActivationRecords(objects, activation_key, clock)
    settlement = Settlement(database, objects, ingest, records, pool, clock)
    uploads = Uploads(
        database, ingest, publisher_keys, pool, audit, clock, max_package_bytes=max_package_bytes
    )
    activations = Activations(database, records, settlement, pool, audit, clock)
    resolver = AdapterResolver(database, clock, ttl_s=alias_ttl_s)
    maintenance = AdapterMaintenance(database, objects, ingest, settlement, clock)
    task = asyncio.create_task(maintenance.run(), name="adapter-maintenance")
    try:
        yield AdapterService(database, uploads, activations, resolver, settlement, audit, clock)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
