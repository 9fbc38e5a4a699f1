"""One TSSP file as a store of its own, for an engine without a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from adapter_store.activation import ActivationRecord, sign_activation
from adapter_store.base_model import BaseModel
from adapter_store.errors import UnknownSignerError
from adapter_store.ingest import IngestedPackage, PackageIngest
from adapter_store.keys.provider import KeyProvider
from adapter_store.loading import PackageLoader
from adapter_store.objects.paths import PackagePaths
from adapter_store.objects.store import ObjectStore, open_object_store
from adapter_store.tssp.format import MAX_PACKAGE_BYTES, Limits
from adapter_store.tssp.signing import PublisherPrivateKey, PublisherPublicKey
from adapter_store.types import EngineName, TenantId

READ_BYTES = 1 << 20
EPOCH = 0
RECORD_LIFE = timedelta(days=365)
"""The record lives in this process's memory only; it must outlast the process."""


@dataclass(frozen=True, slots=True)
class LocalPackage:
    """A verified package, and the loader that decrypts it when the engine asks."""

    engine_name: EngineName
    loader: PackageLoader


def open_local_package(
    path: Path,
    *,
    tenant: TenantId,
    trusted: Sequence[PublisherPublicKey],
    keys: KeyProvider,
    base_model: BaseModel,
    limits: Limits,
) -> LocalPackage:
    """Verify and admit the package in `path`; raises AdapterStoreError, and OSError for the file.

    It goes the way of every other package, into a store in memory that holds ciphertext only,
    with an activation record signed by a key that exists for this one purpose.
    """
    objects = open_object_store("memory:///")
    activation_key = PublisherPrivateKey.generate()
    package = _ingest(path, objects, tenant, trusted, base_model)
    record = _record(package, tenant, trusted)
    paths = PackagePaths(tenant, package.digest)
    objects.replace_sync(paths.activation, sign_activation(record, activation_key))
    loader = PackageLoader(
        objects,
        keys,
        activation_key=activation_key.public_key,
        base_model=base_model,
        limits=limits,
        now=lambda: datetime.now(UTC),
    )
    loader.admit(tenant, package.digest)
    return LocalPackage(EngineName(tenant, package.digest, EPOCH), loader)


def _ingest(
    path: Path,
    objects: ObjectStore,
    tenant: TenantId,
    trusted: Sequence[PublisherPublicKey],
    base_model: BaseModel,
) -> IngestedPackage:
    async def ingest() -> IngestedPackage:
        return await PackageIngest(objects).ingest(
            _chunks(path),
            tenant=tenant,
            trusted=trusted,
            base_fingerprint=base_model.fingerprint,
            max_bytes=MAX_PACKAGE_BYTES,
        )

    # On a thread of its own, for the caller may be inside an event loop (a notebook is).
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(ingest())).result()


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            yield chunk


def _record(
    package: IngestedPackage, tenant: TenantId, trusted: Sequence[PublisherPublicKey]
) -> ActivationRecord:
    publisher = next((key for key in trusted if key.key_id == package.signer), None)
    if publisher is None:
        raise UnknownSignerError("expected a trusted publisher's signature")
    now = datetime.now(UTC)
    return ActivationRecord(
        tenant=tenant,
        digest=package.digest,
        epoch=EPOCH,
        state="active",
        publisher=publisher,
        issued_at=now,
        expires_at=now + RECORD_LIFE,
    )
