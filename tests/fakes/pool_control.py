"""A pool that admits or refuses as it is told, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from adapter_store.types import Digest, EngineName, TenantId
from gateway.adapters.pool_control import BaseModel, IngestKey

FINGERPRINT = "ab" * 32


class FakePoolControl:
    """Implements PoolControl in memory.

    `refusal` is raised by `admit`, `outage` by everything; `before_admit` is awaited while an
    admission is under way, so that a test can do something meanwhile.
    """

    def __init__(self, fingerprint: str = FINGERPRINT) -> None:
        self.fingerprint = fingerprint
        self.refusal: Exception | None = None
        self.outage: Exception | None = None
        self.before_admit: Callable[[], Awaitable[None]] | None = None
        self.admitted: list[tuple[TenantId, Digest]] = []
        self.evicted: list[EngineName] = []

    async def base_model(self) -> BaseModel:
        self._check()
        return BaseModel("base", self.fingerprint, max_lora_rank=16, max_model_len=512)

    async def ingest_key(self, tenant: TenantId) -> IngestKey:
        self._check()
        return IngestKey(key_id=f"{tenant}-1", algorithm="hpke-xwing", public_key="AAAA")

    async def admit(self, tenant: TenantId, digest: Digest) -> dict[str, Any]:
        self._check()
        if self.before_admit is not None:
            await self.before_admit()
        if self.refusal is not None:
            raise self.refusal
        self.admitted.append((tenant, digest))
        return {"rank": 8}

    async def evict(self, engine_name: EngineName) -> None:
        self._check()
        self.evicted.append(engine_name)

    def _check(self) -> None:
        if self.outage is not None:
            raise self.outage
