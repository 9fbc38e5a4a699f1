"""The domain behind the HTTP surface, in memory: two tenants, an operator, a pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapter_store.types import AdapterName, Digest, EngineName, TenantId
from gateway.adapters.models import ResolvedAdapter
from gateway.adapters.pool_control import BaseModel, IngestKey
from gateway.admission.concurrency import Permits
from gateway.api.openai_types import RequestDecoder
from gateway.api.readiness import Readiness
from gateway.audit.record import AuditEvent, AuditKind
from gateway.clock import SystemClock
from gateway.errors import (
    AuditUnavailableError,
    AuthenticationError,
    NotFoundError,
    StoreUnavailableError,
    UpstreamUnavailableError,
)
from gateway.routing.base_model import BaseModelDirectory
from gateway.routing.cache_salt import CacheSalts
from gateway.routing.engine_client import open_engine_client
from gateway.routing.proxy import InferenceProxy
from gateway.routing.recorder import Recorder
from gateway.routing.targets import Targets
from gateway.services import Services
from gateway.settings import GatewaySettings
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.pseudonyms import Pseudonyms
from gateway.tenancy.principal import Principal
from gateway.tenancy.scopes import Scope

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
ACME_KEY, GLOBEX_KEY, READER_KEY, ADMIN_KEY = (
    f"tsk_test_{name:0>16}_{'s3cr3tc4n4ry':x>43}abcdef"
    for name in ("acme", "globex", "reader", "admin")
)
TENANT_SCOPES = frozenset({Scope.INFERENCE, Scope.ADAPTERS_READ, Scope.ADAPTERS_WRITE})
BASE_MODEL = "tiny-base"
SUPPORT_DIGEST = Digest("a1" * 32)


def adapter(tenant: TenantId, name: str, digest: str, epoch: int = 0) -> ResolvedAdapter:
    """Return an adapter that a tenant serves."""
    return ResolvedAdapter(
        alias=name,
        name=AdapterName(name.partition("@")[0]),
        version=1,
        digest=Digest(digest),
        engine_name=EngineName(tenant, Digest(digest), epoch),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


class FakeAuthenticator:
    """Knows four keys."""

    def __init__(self) -> None:
        self.principals = {
            ACME_KEY: Principal("acmekey", ACME, TENANT_SCOPES),
            GLOBEX_KEY: Principal("globexkey", GLOBEX, TENANT_SCOPES),
            READER_KEY: Principal("readerkey", ACME, frozenset({Scope.ADAPTERS_READ})),
            ADMIN_KEY: Principal("adminkey", None, frozenset({Scope.ADMIN})),
        }

    async def authenticate(self, bearer: str | None) -> Principal:
        """See Authenticator."""
        try:
            return self.principals[bearer or ""]
        except KeyError:
            raise AuthenticationError from None


class FakeAdapters:
    """Serves adapters by tenant and name, and remembers which were reported."""

    def __init__(self) -> None:
        self.by_name = {
            (ACME, "support"): adapter(ACME, "support", SUPPORT_DIGEST),
            (GLOBEX, "legal"): adapter(GLOBEX, "legal", "b2" * 32),
        }
        self.reported: list[ResolvedAdapter] = []
        self.uploaded: list[bytes] = []
        self.error: Exception | None = None

    async def resolve(self, tenant: TenantId, model: str) -> ResolvedAdapter:
        """See AdapterService."""
        if self.error is not None:
            raise self.error
        try:
            return self.by_name[tenant, model]
        except KeyError:
            raise NotFoundError(f"no adapter {model} of {tenant}") from None

    async def served(self, tenant: TenantId) -> tuple[ResolvedAdapter, ...]:
        """See AdapterService."""
        return tuple(each for (owner, _), each in self.by_name.items() if owner == tenant)

    async def report_engine_failure(self, resolved: ResolvedAdapter) -> None:
        """See AdapterService."""
        self.reported.append(resolved)

    async def upload(self, actor: Principal, chunks: AsyncIterator[bytes]) -> Any:
        """Take the bytes in and fail as told."""
        received = b"".join([chunk async for chunk in chunks])
        self.uploaded.append(received)
        raise self.error or NotImplementedError


class MemoryAudit:
    """Keeps events; may fail, or hang for a while, on the kinds that it is told."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.failing: set[AuditKind] = set()
        self.delay_s = 0.0

    async def append(self, event: AuditEvent) -> int:
        """See AuditLog."""
        if event.kind in self.failing:
            raise AuditUnavailableError("/var/secret/audit.db: disk full")
        self.events.append(event)
        await asyncio.sleep(self.delay_s)
        return len(self.events)

    def of(self, kind: AuditKind) -> list[AuditEvent]:
        """Return the events of one kind."""
        return [event for event in self.events if event.kind == kind]


class FakePool:
    """A pool that is there, or away."""

    def __init__(self) -> None:
        self.away = False

    async def base_model(self) -> BaseModel:
        """See PoolControl."""
        await self.check()
        return BaseModel(BASE_MODEL, "f" * 64, 8, 512)

    async def ingest_key(self, tenant: TenantId) -> IngestKey:
        """See PoolControl."""
        await self.check()
        return IngestKey("k1", "hpke-xwing", "AAAA")

    async def check(self) -> None:
        """See UnixPoolControl."""
        if self.away:
            raise UpstreamUnavailableError("/run/pool/control.sock refused")


class FakeDatabase:
    """A database that answers pings, or not."""

    def __init__(self) -> None:
        self.away = False

    async def ping(self) -> None:
        """See Database."""
        if self.away:
            raise StoreUnavailableError("postgresql://u:p@host refused")


@dataclass
class FakeDomain:
    """What tests look at and turn."""

    authenticator: FakeAuthenticator = field(default_factory=FakeAuthenticator)
    adapters: FakeAdapters = field(default_factory=FakeAdapters)
    audit: MemoryAudit = field(default_factory=MemoryAudit)
    pool: FakePool = field(default_factory=FakePool)
    database: FakeDatabase = field(default_factory=FakeDatabase)
    metrics: Metrics = field(default_factory=lambda: Metrics(Pseudonyms(b"k" * 32)))

    def open(self, settings: GatewaySettings, engine_socket: Path) -> Any:
        """Return an opener of services that are real where HTTP is, and fake behind it."""

        @asynccontextmanager
        async def open_services() -> AsyncIterator[Services]:
            clock = SystemClock()
            async with AsyncExitStack() as stack:
                engine = await stack.enter_async_context(
                    open_engine_client(engine_socket, silence_s=settings.engine_silence_s)
                )
                base_model = BaseModelDirectory(self.pool, clock)
                targets = Targets(self.adapters, base_model)
                permits = Permits(
                    max_concurrent=settings.max_concurrent_requests,
                    max_queued=settings.max_queued_requests,
                    queue_timeout_s=settings.queue_timeout_s,
                    on_depth=self.metrics.queue_depth.set,
                )
                recorder = Recorder(self.audit, self.metrics, clock)
                salts = CacheSalts(b"s" * 32)
                unused: Any = None
                yield Services(
                    clock=clock,
                    database=unused,
                    authenticator=self.authenticator,
                    tenants=unused,
                    api_keys=unused,
                    publisher_keys=unused,
                    adapters=self.adapters,
                    pool=self.pool,
                    base_model=base_model,
                    decoder=RequestDecoder(),
                    targets=targets,
                    recorder=recorder,
                    proxy=InferenceProxy(engine, targets, self.adapters, permits, recorder, salts),
                    readiness=Readiness(self.database, self.pool, clock),
                    metrics=self.metrics,
                    pseudonyms=Pseudonyms(b"k" * 32),
                )

        return open_services
