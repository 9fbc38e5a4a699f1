"""A tenant with a registered publisher, a pool that really admits, and the adapter service."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from adapter_store.activation import ActivationRecord, verify_activation
from adapter_store.errors import AdapterStoreError, ObjectNotFoundError
from adapter_store.objects.paths import PackagePaths
from adapter_store.types import Digest, TenantId
from gateway.adapters.models import Adapter
from gateway.adapters.opening import Adapters, build_adapters
from gateway.adapters.pool_control import AdmissionRefusedError
from gateway.adapters.service import AdapterService
from gateway.audit.log import SqlAuditLog
from gateway.db.engine import Database
from gateway.db.tables import audit_records
from gateway.tenancy.principal import LOCAL_OPERATOR, Principal
from gateway.tenancy.publisher_keys import PublisherKeys
from gateway.tenancy.scopes import Scope
from gateway.tenancy.tenants import Tenants
from tests.fakes.clock import FakeClock
from tests.fakes.packages import ACME, GLOBEX, World, adapter_folder, pieces
from tests.fakes.pool_control import FakePoolControl

OWNER = frozenset({Scope.INFERENCE, Scope.ADAPTERS_READ, Scope.ADAPTERS_WRITE})
ALICE = Principal("alice0000000key1", ACME, OWNER)
GLORIA = Principal("gloria000000key1", GLOBEX, OWNER)
ALIAS_TTL_S = 2.0
MAX_PACKAGE_BYTES = 2**22


class LoadingPool(FakePoolControl):
    """Admits with the pool's real loader, so what it is handed is really opened and checked."""

    def __init__(self, world: World, clock: FakeClock) -> None:
        super().__init__(world.base_model.fingerprint)
        self._world = world
        self._clock = clock

    async def admit(self, tenant: TenantId, digest: Digest) -> dict[str, Any]:
        await super().admit(tenant, digest)
        try:
            self._world.loader(now=self._clock.now).admit(tenant, digest)
        except AdapterStoreError as error:
            raise AdmissionRefusedError(error.code, str(error)) from error
        return {}


@dataclass
class Stage:
    """Everything a test of adapters touches."""

    world: World
    pool: LoadingPool
    database: Database
    audit: SqlAuditLog
    clock: FakeClock
    adapters: Adapters
    folder: Path

    @property
    def service(self) -> AdapterService:
        return self.adapters.service

    def replica(self) -> Adapters:
        """Another gateway on the same database and store."""
        return build_adapters(
            self.database,
            self.world.objects,
            PublisherKeys(self.database, self.audit, self.clock),
            self.pool,
            self.audit,
            self.clock,
            activation_key=self.world.activation_key,
            max_package_bytes=MAX_PACKAGE_BYTES,
            alias_ttl_s=ALIAS_TTL_S,
        )

    def pack(self, actor: Principal = ALICE, **changes: Any) -> bytes:
        assert actor.tenant is not None
        return self.world.pack(self.folder, tenant=actor.tenant, **changes)

    async def upload(self, actor: Principal = ALICE, **changes: Any) -> Adapter:
        return await self.service.upload(actor, pieces(self.pack(actor, **changes)))

    async def active(self, actor: Principal = ALICE, **changes: Any) -> Adapter:
        adapter = await self.upload(actor, **changes)
        return await self.service.activate(actor, adapter.digest)

    async def record(self, adapter: Adapter) -> ActivationRecord | None:
        path = PackagePaths(adapter.tenant, adapter.digest).activation
        try:
            envelope = await self.world.objects.read(path, max_bytes=2**20)
        except ObjectNotFoundError:
            return None
        return verify_activation(envelope, self.world.activation_key.public_key)

    async def objects(self) -> set[str]:
        """The names of a package's objects that are in the store, without their folder."""
        return {path.rpartition("/")[2] for path in await self.world.stored()}

    async def audited(self) -> str:
        """Every audit record, as text."""
        async with self.database.read() as connection:
            rows = await connection.execute(select(audit_records.c.record))
            return "\n".join(row.record.decode() for row in rows)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime.now(UTC))  # the store stamps objects with the real time


@pytest.fixture
async def stage(database: Database, audit: SqlAuditLog, clock: FakeClock, tmp_path: Path) -> Stage:
    world = World()
    keys = PublisherKeys(database, audit, clock)
    for tenant in (ACME, GLOBEX):
        await Tenants(database, audit, clock).create(LOCAL_OPERATOR, tenant)
        await keys.register(LOCAL_OPERATOR, tenant, world.publisher.public_key)
    stage = Stage(
        world=world,
        pool=LoadingPool(world, clock),
        database=database,
        audit=audit,
        clock=clock,
        adapters=None,  # type: ignore[arg-type]
        folder=adapter_folder(tmp_path / "adapter"),
    )
    stage.adapters = stage.replica()
    return stage
