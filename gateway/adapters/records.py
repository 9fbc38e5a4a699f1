"""Writes activation records: what the pool may load, as the database says it."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from adapter_store.activation import ActivationRecord, sign_activation
from adapter_store.objects.paths import PackagePaths
from adapter_store.objects.store import ObjectStore
from adapter_store.tssp.signing import PublisherPrivateKey
from gateway.adapters.lifecycle import AdapterState
from gateway.adapters.models import Adapter
from gateway.clock import Clock

LIFETIME = timedelta(days=7)
"""A copy of a record that outlives its revocation is good for no longer."""

RENEW_BEFORE = timedelta(days=3)
"""How long a gateway may be away before what it serves stops."""

ADMISSION_LIFETIME = timedelta(minutes=10)
"""The pool decrypts and checks 2 GiB in less."""

REPEAT_REVOCATION = timedelta(minutes=1)
"""A revocation is written twice: an activation that was under way may have written last."""


class RecordState(StrEnum):
    """What a record allows the pool."""

    ADMITTING = "admitting"  # open it and check it
    ACTIVE = "active"  # load it
    REVOKED = "revoked"  # nothing


class ActivationRecords:
    """The signed records beside the packages. Every method raises the store's StorageError."""

    def __init__(self, objects: ObjectStore, key: PublisherPrivateKey, clock: Clock) -> None:
        self._objects = objects
        self._key = key
        self._clock = clock

    async def admit(self, adapter: Adapter) -> None:
        """Let the pool open and check the package, for minutes."""
        await self._write(adapter, RecordState.ADMITTING, ADMISSION_LIFETIME)

    async def activate(self, adapter: Adapter) -> datetime:
        """Let the pool load the adapter under its epoch; returns when to renew that."""
        expires_at = await self._write(adapter, RecordState.ACTIVE, LIFETIME)
        return expires_at - RENEW_BEFORE

    async def settle(self, adapter: Adapter, *, first_time: bool = False) -> datetime | None:
        """Write what the adapter's state implies; returns when that is due again, if ever."""
        if adapter.state is AdapterState.ACTIVE:
            return await self.activate(adapter)
        if adapter.state is AdapterState.UPLOADED:
            await self._objects.delete(PackagePaths(adapter.tenant, adapter.digest).activation)
            return None
        await self._write(adapter, RecordState.REVOKED, LIFETIME)
        return self._clock.now() + REPEAT_REVOCATION if first_time else None

    async def _write(self, adapter: Adapter, state: RecordState, lifetime: timedelta) -> datetime:
        now = self._clock.now()
        record = ActivationRecord(
            tenant=adapter.tenant,
            digest=adapter.digest,
            epoch=adapter.epoch,
            state=state.value,
            publisher=adapter.publisher,
            issued_at=now,
            expires_at=now + lifetime,
        )
        path = PackagePaths(adapter.tenant, adapter.digest).activation
        await self._objects.replace(path, sign_activation(record, self._key))
        return record.expires_at
