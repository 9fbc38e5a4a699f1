"""Taking in an upload: verified while it streams to the store, there whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import uuid4

from adapter_store.errors import (
    ConflictError,
    InvalidRecipientsError,
    ObjectNotFoundError,
    StorageError,
)
from adapter_store.objects import paths
from adapter_store.objects.paths import PackagePaths
from adapter_store.objects.store import ObjectStore
from adapter_store.tssp.format import Limits
from adapter_store.tssp.manifest import Manifest
from adapter_store.tssp.policy import MadeForBaseModel, MadeForTenant, Servable
from adapter_store.tssp.reader import PackageVerifier, VerifiedPackage
from adapter_store.tssp.signing import PublisherPublicKey
from adapter_store.types import Digest, TenantId

_BLOCK_BYTES: Final = 1 << 20
"""Hashed in one go on a thread: long enough to be worth the hand-over, short enough to be small."""


@dataclass(frozen=True, slots=True)
class IngestedPackage:
    """A package that is now in the store, sealed, and waits for admission."""

    digest: Digest
    manifest: Manifest
    size_bytes: int
    signer: str


class PackageIngest:
    """Takes uploads into an object store. Holds no state: one serves any number at a time."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def ingest(
        self,
        chunks: AsyncIterator[bytes],
        *,
        tenant: TenantId,
        trusted: Collection[PublisherPublicKey],
        base_fingerprint: str,
        max_bytes: int,
    ) -> IngestedPackage:
        """Verify the package that `chunks` bring, and keep it.

        Raises a FormatError or VerificationError as soon as a fault shows, ConflictError for a
        package that is here already (a replay), StorageError if the store fails, and what
        `chunks` raises. After any of these, or a cancellation, the store is as it was.
        """
        limits = Limits(max_package_bytes=max_bytes)
        policies = (MadeForTenant(tenant), MadeForBaseModel(base_fingerprint), Servable(limits))
        verifier = PackageVerifier(trusted, policies, limits)
        staged = paths.staging(uuid4())
        try:
            await self._objects.upload(staged, self._verified(chunks, verifier, tenant))
            package = verifier.finish()
            await self._keep(staged, package, tenant)
        except BaseException:
            with suppress(StorageError):  # then the sweep gets it
                await _to_the_end(self._objects.delete(staged))
            raise
        return IngestedPackage(
            digest=package.verified.digest,
            manifest=package.verified.manifest,
            size_bytes=package.sealed_bytes,
            signer=package.verified.signer,
        )

    async def remove(self, tenant: TenantId, digest: Digest) -> None:
        """Delete everything of a package: first its keys, so that what is left is noise."""
        package = PackagePaths(tenant, digest)
        for path in (package.data_key, package.recipients, package.activation, package.package):
            await self._objects.delete(path)

    async def sweep(self, *, before: datetime) -> int:
        """Delete what uploads left in staging that ended before that time; returns how many."""
        return await self._objects.sweep_staging(before=before)

    async def _verified(
        self, chunks: AsyncIterator[bytes], verifier: PackageVerifier, tenant: TenantId
    ) -> AsyncIterator[bytes]:
        """Yield the sealed package. The staged object appears when this has ended, hence after
        all of the package was verified; an exception in here means that none appears."""
        accepted = False
        async for block in _blocks(chunks):
            sealed = await asyncio.to_thread(verifier.feed, block)
            if not accepted and verifier.package is not None:
                await self._accept(verifier.package, tenant)
                accepted = True
            for part in sealed:
                yield part
        verifier.finish()

    async def _accept(self, package: VerifiedPackage, tenant: TenantId) -> None:
        """Refuse by its header what would be refused after its payload."""
        if not package.recipients:
            raise InvalidRecipientsError("recipients", expected="at least one", found="none")
        path = PackagePaths(tenant, package.verified.digest).package
        try:
            await self._objects.info(path)
        except ObjectNotFoundError:
            return
        raise ConflictError(f"package {package.verified.digest} is already there")

    async def _keep(self, staged: str, package: VerifiedPackage, tenant: TenantId) -> None:
        """Move the package to its place, which only one of several uploads can; or undo it."""
        placed = PackagePaths(tenant, package.verified.digest)

        async def place() -> None:
            await self._objects.move_new(staged, placed.package)
            try:
                await self._objects.replace(placed.recipients, package.recipients_json)
            except StorageError:
                await self.remove(tenant, package.verified.digest)
                raise

        placing = asyncio.create_task(place())
        try:
            await asyncio.shield(placing)
        except asyncio.CancelledError:
            await _to_the_end(self._undo(placing, placed))
            raise

    async def _undo(self, placing: asyncio.Task[None], placed: PackagePaths) -> None:
        await asyncio.wait((placing,))
        if not placing.cancelled() and placing.exception() is None:
            await self.remove(placed.tenant, placed.digest)


async def _blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the same bytes in pieces of about _BLOCK_BYTES."""
    waiting: list[bytes] = []
    size = 0
    async for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= _BLOCK_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


async def _to_the_end(work: Coroutine[object, object, None]) -> None:
    """Await `work` to its end, and only then let a cancellation that came meanwhile through."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError
