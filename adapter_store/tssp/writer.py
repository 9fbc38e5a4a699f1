"""Writing a package: a PEFT adapter's folder in, a signed and encrypted package out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

import msgspec

from adapter_store.base_model import BaseModelRef
from adapter_store.errors import AdapterFolderError, TooLargeError, shown
from adapter_store.peft.config import AdapterConfig, parse_adapter_config
from adapter_store.peft.safetensors import check_adapter, parse_header
from adapter_store.tssp.container import Header
from adapter_store.tssp.encryption import DataKey, FileCipher
from adapter_store.tssp.format import (
    CHUNK_BYTES,
    CONFIG_PATH,
    MANIFEST_TYPE,
    MAX_CONFIG_BYTES,
    MAX_PACKAGE_BYTES,
    MAX_RECIPIENTS,
    SEALED_CHUNK_BYTES,
    SPEC,
    TENSORS_PATH,
    ciphertext_size,
    number_of_chunks,
)
from adapter_store.tssp.manifest import AEAD_NAME, Encryption, FileEntry, Manifest, parse_manifest
from adapter_store.tssp.privacy import PrivacyStatement
from adapter_store.tssp.recipients import IngestPublicKey, encode_recipients, seal_data_key
from adapter_store.tssp.signing import PublisherPrivateKey, sign_envelope
from adapter_store.types import AdapterName, Digest, TenantId

OnProgress = Callable[[int, int], None]
"""Is told how many bytes of how many have been encrypted."""

_IGNORED_FILES: Final = frozenset({"README.md"})  # PEFT writes a model card beside every adapter
_UNKNOWN_DIGEST: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """A PEFT adapter on disk that has passed every check that needs no base model."""

    config: AdapterConfig
    files: tuple[tuple[str, Path, int], ...]
    """Path in the package, path on disk, size in bytes; in the package's order."""


def pack(
    adapter_dir: Path,
    out: BinaryIO,
    *,
    tenant: TenantId,
    name: AdapterName,
    version: int,
    base_model: BaseModelRef,
    signer: PublisherPrivateKey,
    recipients: Sequence[IngestPublicKey],
    privacy: PrivacyStatement,
    description: str = "",
    license: str = "",  # noqa: A002  the manifest's word
    supersedes: Digest | None = None,
    on_progress: OnProgress | None = None,
) -> Digest:
    """Write the adapter in `adapter_dir` to `out`, a seekable file, and return its digest.

    Needs a few MiB however large the adapter is. Raises AdapterFolderError, AdapterConfigError
    or TensorFileError if it is not an adapter that can be served, InvalidManifestError if a name
    or text is out of bounds, TooLargeError if it is over 2 GiB. `out` then holds no package: its
    first bytes are written last.
    """
    folder = read_adapter_folder(adapter_dir)
    data_key = DataKey.generate()
    created_at = datetime.now(UTC).replace(microsecond=0)
    package_id = str(_uuid7(created_at))
    manifest = Manifest(
        spec=SPEC,
        package_id=package_id,
        created_at=created_at,
        tenant=tenant,
        name=name,
        version=version,
        base_model=base_model,
        adapter=folder.config,
        mode="standard",
        shards=1,
        files=tuple(_file_entry(path, size) for path, _, size in folder.files),
        encryption=Encryption(
            aead=AEAD_NAME,
            chunk_size=CHUNK_BYTES,
            key_commitment=data_key.commitment(package_id),
        ),
        privacy=privacy,
        license=license,
        description=description,
        supersedes=supersedes,
    )
    return write_package(
        manifest,
        out,
        sources=[path for _, path, _ in folder.files],
        data_key=data_key,
        signer=signer,
        recipients=recipients,
        on_progress=on_progress,
    )


def read_adapter_folder(adapter_dir: Path) -> AdapterFolder:
    """Return the adapter in a folder, checked: the files, the config, the tensors, every number.

    Raises AdapterFolderError, AdapterConfigError or TensorFileError.
    """
    _refuse_other_files(adapter_dir)
    config_path, tensors_path = adapter_dir / CONFIG_PATH, adapter_dir / TENSORS_PATH
    try:
        with config_path.open("rb") as file:
            config = parse_adapter_config(file.read(MAX_CONFIG_BYTES + 1))
        with tensors_path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_PACKAGE_BYTES:
                raise TooLargeError(
                    TENSORS_PATH, expected=f"at most {MAX_PACKAGE_BYTES} bytes", found=size
                )
            read = _reader_of(file)
            check_adapter(config, parse_header(read, size), read, base_shapes=None)
        sizes = config_path.stat().st_size, size
    except OSError as error:
        raise AdapterFolderError(f"cannot read {error.filename}: {error.strerror}") from None
    return AdapterFolder(
        config=config,
        files=((CONFIG_PATH, config_path, sizes[0]), (TENSORS_PATH, tensors_path, sizes[1])),
    )


def write_package(
    manifest: Manifest,
    out: BinaryIO,
    *,
    sources: Sequence[Path],
    data_key: DataKey,
    signer: PublisherPrivateKey,
    recipients: Sequence[IngestPublicKey],
    on_progress: OnProgress | None = None,
) -> Digest:
    """Encrypt `sources` under a manifest whose ciphertext digests are yet unknown; see `pack`.

    A data key is good for one package: never call this twice with the same one.
    """
    if not 1 <= len(recipients) <= MAX_RECIPIENTS:
        raise AdapterFolderError(
            "recipients", expected=f"1 to {MAX_RECIPIENTS} ingest keys", found=len(recipients)
        )
    parse_manifest(manifest.to_bytes())  # a constructor checks no bounds; the parser checks all

    def header(of: Manifest) -> bytes:
        return _header(of, data_key=data_key, signer=signer, recipients=recipients)

    # The header contains digests of what follows it. Digests, signatures and sealed keys are of
    # fixed size, so its length is known before they are: leave room, and come back.
    room = len(header(manifest))
    start = out.tell()
    out.seek(start + room)
    progress = _Progress(sum(entry.size for entry in manifest.files), on_progress)
    digests = [
        _encrypt_file(source, out, FileCipher(data_key, manifest, index), entry, progress)
        for index, (source, entry) in enumerate(zip(sources, manifest.files, strict=True))
    ]
    finished = msgspec.structs.replace(
        manifest,
        files=tuple(
            msgspec.structs.replace(entry, ciphertext_sha256=digest)
            for entry, digest in zip(manifest.files, digests, strict=True)
        ),
    )
    end = out.tell()
    out.seek(start)
    out.write(header(finished))
    if out.tell() != start + room:
        raise AssertionError("the header's size depends on the digests in it")
    out.seek(end)
    return finished.digest


def _header(
    manifest: Manifest,
    *,
    data_key: DataKey,
    signer: PublisherPrivateKey,
    recipients: Sequence[IngestPublicKey],
) -> bytes:
    """Sign the manifest, and seal the data key for each recipient under its digest."""
    sealed = tuple(
        seal_data_key(data_key, recipient, tenant=manifest.tenant, digest=manifest.digest)
        for recipient in recipients
    )
    envelope = sign_envelope(MANIFEST_TYPE, manifest.to_bytes(), signer)
    return Header(envelope=envelope, recipients=encode_recipients(sealed)).to_bytes()


class _Progress:
    """Adds up what has been encrypted, and tells."""

    def __init__(self, total: int, tell: OnProgress | None) -> None:
        self._done = 0
        self._total = total
        self._tell = tell

    def add(self, size: int) -> None:
        self._done += size
        if self._tell is not None:
            self._tell(self._done, self._total)


def _encrypt_file(
    source: Path, out: BinaryIO, cipher: FileCipher, entry: FileEntry, progress: _Progress
) -> str:
    """Append the encrypted chunks of a file; returns the SHA-256 of them."""
    plaintext, sealed = (
        memoryview(bytearray(CHUNK_BYTES)),
        memoryview(bytearray(SEALED_CHUNK_BYTES)),
    )
    hash_ = hashlib.sha256()
    with source.open("rb") as file:
        for number in range(number_of_chunks(entry.size)):
            size = cipher.chunk_size(number)
            if file.readinto(plaintext[:size]) != size:
                raise AdapterFolderError(f"{source} became shorter while it was being packed")
            length = cipher.seal_into(number, plaintext[:size], sealed)
            hash_.update(sealed[:length])
            out.write(sealed[:length])
            progress.add(size)
        if file.read(1):
            raise AdapterFolderError(f"{source} became longer while it was being packed")
    return hash_.hexdigest()


def _file_entry(path: str, size: int) -> FileEntry:
    return FileEntry(
        path=path,
        size=size,
        ciphertext_size=ciphertext_size(size),
        ciphertext_sha256=_UNKNOWN_DIGEST,
    )


def _refuse_other_files(adapter_dir: Path) -> None:
    expected = {CONFIG_PATH, TENSORS_PATH}
    try:
        found = {entry.name for entry in adapter_dir.iterdir()}
    except OSError as error:
        raise AdapterFolderError(f"cannot read {adapter_dir}: {error.strerror}") from None
    others = sorted(found - expected - _IGNORED_FILES)
    if others:
        raise AdapterFolderError(
            f"{adapter_dir}",
            expected=f"only {CONFIG_PATH} and {TENSORS_PATH}",
            found=shown(", ".join(others[:8])),
        )
    missing = sorted(expected - found)
    if missing:
        raise AdapterFolderError(f"{adapter_dir} has no {' and no '.join(missing)}")


def _reader_of(file: BinaryIO) -> Callable[[int, int], memoryview]:
    def read(start: int, end: int) -> memoryview:
        file.seek(start)
        return memoryview(file.read(end - start))

    return read


def _uuid7(now: datetime) -> UUID:
    """RFC 9562, 5.7: milliseconds since 1970 in 48 bits, then randomness."""
    milliseconds = int(now.timestamp() * 1000)
    value = bytearray(milliseconds.to_bytes(6, "big") + os.urandom(10))
    value[6] = 0x70 | (value[6] & 0x0F)
    value[8] = 0x80 | (value[8] & 0x3F)
    return UUID(bytes=bytes(value))
