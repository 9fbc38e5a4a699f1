"""The pool's side of the store: admit a package once, then load it as often as the engine asks.

Plaintext is only ever in memory. A package is opened only while a record that the gateway has
signed says so; who reaches the pool directly gains nothing by knowing a digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from adapter_store.activation import (
    MAX_RECORD_BYTES,
    ActivationRecord,
    Now,
    State,
    verify_activation,
)
from adapter_store.base_model import BaseModel
from adapter_store.errors import (
    AdapterConfigError,
    ConflictError,
    DigestMismatchError,
    InvalidRecipientsError,
    KeyNotFoundError,
    NotActiveError,
    ObjectNotFoundError,
    RecordExpiredError,
    WrongEpochError,
)
from adapter_store.keys.provider import KeyProvider
from adapter_store.objects.paths import PackagePaths
from adapter_store.objects.store import ObjectStore
from adapter_store.peft.config import AdapterConfig, parse_adapter_config
from adapter_store.peft.safetensors import AdapterReport, check_adapter, parse_header, reader_of
from adapter_store.tssp.encryption import DataKey
from adapter_store.tssp.format import MAX_RECIPIENTS_BYTES, Limits
from adapter_store.tssp.policy import MadeForBaseModel, MadeForTenant, Servable
from adapter_store.tssp.reader import StoredPackage, UnlockedPackage, open_package
from adapter_store.tssp.recipients import SealedDataKey, WrappedDataKey, decode_recipients
from adapter_store.tssp.signing import PublisherPublicKey
from adapter_store.types import Digest, EngineName, TenantId

_MAX_DATA_KEY_BYTES: Final = 16 << 10
_CONFIG, _TENSORS = 0, 1  # the order of files in a package

Allocate = Callable[[int], memoryview]
"""Returns writable memory of so many bytes: plain, or that of a sealed memory file."""


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """A decrypted adapter. `tensors` is a whole safetensors file, and the caller's to wipe."""

    config: AdapterConfig
    config_json: bytes
    """An adapter_config.json that says what `config` says: the publisher's own never leaves."""
    tensors: memoryview = field(repr=False)


class PackageLoader:
    """Admits and loads packages; safe to call from several threads at once."""

    def __init__(
        self,
        objects: ObjectStore,
        keys: KeyProvider,
        *,
        activation_key: PublisherPublicKey,
        base_model: BaseModel,
        limits: Limits,
        now: Now,
    ) -> None:
        self._objects = objects
        self._keys = keys
        self._activation_key = activation_key
        self._base_model = base_model
        self._limits = limits
        self._now = now

    def admit(self, tenant: TenantId, digest: Digest) -> AdapterReport:
        """Open an uploaded package, check all of it, and keep its data key under our own.

        Its uploaded recipients are then deleted: from here on, whoever deletes the kept key
        shreds the package. May be repeated at any point, also after a crash.

        Raises PolicyError unless an `admitting` or `active` record allows it, any FormatError or
        VerificationError that the package deserves, KeyProviderError and StorageError.
        """
        paths = PackagePaths(tenant, digest)
        record = self._record(paths, allowed=("admitting", "active"))
        package = self._open(paths, record)
        kept = self._kept_key(paths)
        data_key = self._uploaded_key(paths) if kept is None else kept
        adapter = self._decrypt(package, data_key, _plain_memory)
        with _wiped(adapter.tensors):
            report = self._check(adapter)
        if kept is None:
            self._keep_key(paths, data_key)
        self._objects.delete_sync(paths.recipients)
        return report

    def load(self, name: EngineName, allocate: Allocate | None = None) -> LoadedAdapter:
        """Return the adapter that an engine knows by `name`, decrypted into `allocate`'s memory.

        What was admitted is not checked for NaN and shapes again: its digest has not changed.
        Raises NotActiveError, RecordExpiredError or WrongEpochError unless an `active` record of
        this epoch allows it, and what `admit` raises.
        """
        paths = PackagePaths(name.tenant, name.digest)
        record = self._record(paths, allowed=("active",))
        if record.epoch != name.epoch:
            raise WrongEpochError("epoch", expected=record.epoch, found=name.epoch)
        package = self._open(paths, record)
        data_key = self._kept_key(paths)
        if data_key is None:
            raise KeyNotFoundError(
                f"package {name.digest} has no data key: it is not admitted, or was shredded"
            )
        return self._decrypt(package, data_key, allocate or _plain_memory)

    def _record(self, paths: PackagePaths, *, allowed: tuple[State, ...]) -> ActivationRecord:
        try:
            envelope = self._objects.read_sync(paths.activation, max_bytes=MAX_RECORD_BYTES)
        except ObjectNotFoundError:
            raise NotActiveError(f"package {paths.digest} was never activated") from None
        record = verify_activation(envelope, self._activation_key)
        if (record.tenant, record.digest) != (paths.tenant, paths.digest):
            raise NotActiveError(
                "activation record",
                expected=f"for {paths.tenant} {paths.digest}",
                found=f"for {record.tenant} {record.digest}",
            )
        if record.state not in allowed:
            raise NotActiveError(
                f"package {paths.digest}", expected=" or ".join(allowed), found=record.state
            )
        if self._now() >= record.expires_at:
            raise RecordExpiredError(
                f"activation of package {paths.digest} expired at {record.expires_at.isoformat()}"
            )
        return record

    def _open(self, paths: PackagePaths, record: ActivationRecord) -> StoredPackage:
        package = open_package(
            lambda start, end: self._objects.read_range_sync(paths.package, start, end),
            self._objects.info_sync(paths.package).size_bytes,
            trusted=(record.publisher,),
            policies=(
                MadeForTenant(paths.tenant),
                MadeForBaseModel(self._base_model.fingerprint),
                Servable(self._limits),
            ),
            limits=self._limits,
        )
        if package.verified.digest != paths.digest:
            raise DigestMismatchError(
                "package", expected=paths.digest, found=package.verified.digest
            )
        return package

    def _kept_key(self, paths: PackagePaths) -> DataKey | None:
        try:
            data = self._objects.read_sync(paths.data_key, max_bytes=_MAX_DATA_KEY_BYTES)
        except ObjectNotFoundError:
            return None
        return self._keys.unwrap(paths.tenant, paths.digest, WrappedDataKey.from_json(data))

    def _uploaded_key(self, paths: PackagePaths) -> DataKey:
        try:
            data = self._objects.read_sync(paths.recipients, max_bytes=MAX_RECIPIENTS_BYTES)
        except ObjectNotFoundError:
            raise KeyNotFoundError(
                f"package {paths.digest} has neither recipients nor a data key: it was shredded"
            ) from None
        refusal: KeyNotFoundError | None = None
        for recipient in decode_recipients(data):
            try:
                if isinstance(recipient, SealedDataKey):
                    return self._keys.open_ingest(paths.tenant, recipient, paths.digest)
                return self._keys.unwrap(paths.tenant, paths.digest, recipient)
            except KeyNotFoundError as not_ours:
                refusal = not_ours
        raise InvalidRecipientsError(f"no recipient of package {paths.digest} is ours: {refusal}")

    def _keep_key(self, paths: PackagePaths, data_key: DataKey) -> None:
        wrapped = self._keys.wrap(paths.tenant, paths.digest, data_key)
        try:
            self._objects.create_sync(paths.data_key, wrapped.to_json())
        except ConflictError:
            return  # another admission of the same package was quicker, with the same data key

    def _decrypt(
        self, package: StoredPackage, data_key: DataKey, allocate: Allocate
    ) -> LoadedAdapter:
        unlocked = UnlockedPackage(package, data_key)
        manifest = package.verified.manifest
        config_json = bytearray(manifest.files[_CONFIG].size)
        unlocked.decrypt_into(_CONFIG, memoryview(config_json))
        config = parse_adapter_config(bytes(config_json))
        if config != manifest.adapter:
            raise AdapterConfigError(
                "adapter_config.json", expected="what the manifest says of it", found="another"
            )
        tensors = allocate(manifest.files[_TENSORS].size)
        with _wiped_on_failure(tensors):
            unlocked.decrypt_into(_TENSORS, tensors)
        return LoadedAdapter(config, config.to_peft_json(), tensors)

    def _check(self, adapter: LoadedAdapter) -> AdapterReport:
        read = reader_of(adapter.tensors)
        tensors = parse_header(read, len(adapter.tensors))
        return check_adapter(adapter.config, tensors, read, self._base_model.shapes)


def wipe(memory: memoryview) -> None:
    """Overwrite decrypted bytes with zeros."""
    np.frombuffer(memory, dtype=np.uint8)[:] = 0


def _plain_memory(size: int) -> memoryview:
    return memoryview(bytearray(size))


@contextmanager
def _wiped(memory: memoryview) -> Iterator[None]:
    try:
        yield
    finally:
        wipe(memory)


@contextmanager
def _wiped_on_failure(memory: memoryview) -> Iterator[None]:
    try:
        yield
    except BaseException:
        wipe(memory)
        raise
