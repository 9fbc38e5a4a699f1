"""Puts the parts of the adapter service together and keeps its maintenance running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapter service and what keeps it in order."""

    service: AdapterService
    maintenance: AdapterMaintenance


def build_adapters(
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
) -> Adapters:
    """Put the parts together; nothing runs yet."""
    ingest = PackageIngest(objects)
    records = ActivationRecords(objects, activation_key, clock)
    settlement = Settlement(database, objects, ingest, records, pool, clock)
    uploads = Uploads(
        database, ingest, publisher_keys, pool, audit, clock, max_package_bytes=max_package_bytes
    )
    activations = Activations(database, records, settlement, pool, audit, clock)
    resolver = AdapterResolver(database, clock, ttl_s=alias_ttl_s)
    return Adapters(
        AdapterService(database, uploads, activations, resolver, settlement, audit, clock),
        AdapterMaintenance(database, objects, ingest, settlement, clock),
    )


@asynccontextmanager
async def run_maintenance(adapters: Adapters) -> AsyncIterator[AdapterService]:
    """Give the service, with its maintenance running until the end."""
    task = asyncio.create_task(adapters.maintenance.run(), name="adapter-maintenance")
    try:
        yield adapters.service
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
