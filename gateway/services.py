"""The composition root: everything that the gateway is made of, built once and closed in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from adapter_store.keys.keyring import load_gateway_keys
from adapter_store.objects.store import open_object_store
from gateway.adapters.opening import build_adapters, run_maintenance
from gateway.adapters.pool_control import PoolControl
from gateway.adapters.service import AdapterService
from gateway.admission.concurrency import Permits
from gateway.api.openai_types import RequestDecoder
from gateway.api.readiness import Readiness
from gateway.audit.log import open_audit_log
from gateway.clock import Clock, SystemClock
from gateway.db.engine import Database, open_database
from gateway.db.migrations.run import migrate, require_current
from gateway.routing.base_model import BaseModelDirectory
from gateway.routing.cache_salt import CacheSalts
from gateway.routing.engine_client import open_engine_client
from gateway.routing.pool_control import open_pool_control
from gateway.routing.proxy import InferenceProxy
from gateway.routing.recorder import Recorder
from gateway.routing.targets import Targets
from gateway.settings import GatewaySettings
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.pseudonyms import Pseudonyms
from gateway.tenancy.api_keys import ApiKeys
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.key_text import Pepper
from gateway.tenancy.publisher_keys import PublisherKeys
from gateway.tenancy.tenants import Tenants


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What routes and middleware may use."""

    clock: Clock
    database: Database
    authenticator: Authenticator
    tenants: Tenants
    api_keys: ApiKeys
    publisher_keys: PublisherKeys
    adapters: AdapterService
    pool: PoolControl
    base_model: BaseModelDirectory
    decoder: RequestDecoder
    targets: Targets
    recorder: Recorder
    proxy: InferenceProxy
    readiness: Readiness
    metrics: Metrics
    pseudonyms: Pseudonyms


@asynccontextmanager
async def open_services(settings: GatewaySettings) -> AsyncIterator[Services]:
    """Build every service from `settings`, and close them in the reverse order."""
    clock = SystemClock()
    keys = load_gateway_keys(settings.keyring)
    pepper = Pepper(keys.pepper_version, keys.pepper)
    environment = settings.environment
    pseudonyms = Pseudonyms(keys.cache_salt_key, plain=settings.tenant_names_in_metrics)
    metrics = Metrics(pseudonyms)
    async with AsyncExitStack() as stack:
        # 1. What is opened and closed.
        database = await stack.enter_async_context(open_database(settings.database_url))
        await _prepare_schema(database)
        audit = await stack.enter_async_context(
            open_audit_log(database, clock, timeout_s=settings.audit_timeout_s)
        )
        pool = await stack.enter_async_context(open_pool_control(settings.control_socket))
        engine = await stack.enter_async_context(
            open_engine_client(settings.engine_socket, silence_s=settings.engine_silence_s)
        )
        # 2. What is made of it.
        publisher_keys = PublisherKeys(database, audit, clock)
        adapters = await stack.enter_async_context(
            run_maintenance(
                build_adapters(
                    database,
                    open_object_store(settings.object_store_url),
                    publisher_keys,
                    pool,
                    audit,
                    clock,
                    activation_key=keys.activation_key,
                    max_package_bytes=settings.max_package_bytes,
                    alias_ttl_s=settings.alias_cache_ttl_s,
                )
            )
        )
        base_model = BaseModelDirectory(pool, clock)
        targets = Targets(adapters, base_model)
        recorder = Recorder(audit, metrics, clock)
        salts = CacheSalts(keys.cache_salt_key)
        permits = _permits(settings, metrics)
        yield Services(
            clock=clock,
            database=database,
            authenticator=Authenticator(
                database,
                clock,
                pepper=pepper,
                environment=environment,
                ttl_s=settings.key_cache_ttl_s,
            ),
            tenants=Tenants(database, audit, clock),
            api_keys=ApiKeys(database, audit, clock, pepper=pepper, environment=environment),
            publisher_keys=publisher_keys,
            adapters=adapters,
            pool=pool,
            base_model=base_model,
            decoder=RequestDecoder(),
            targets=targets,
            recorder=recorder,
            proxy=InferenceProxy(engine, targets, adapters, permits, recorder, salts),
            readiness=Readiness(database, pool, clock),
            metrics=metrics,
            pseudonyms=pseudonyms,
        )


async def _prepare_schema(database: Database) -> None:
    """An embedded database is brought up to date; a shared one is its operator's to migrate."""
    if database.dialect == "sqlite":
        await migrate(database)
    else:
        await require_current(database)


def _permits(settings: GatewaySettings, metrics: Metrics) -> Permits:
    return Permits(
        max_concurrent=settings.max_concurrent_requests,
        max_queued=settings.max_queued_requests,
        queue_timeout_s=settings.queue_timeout_s,
        on_depth=metrics.queue_depth.set,
    )
