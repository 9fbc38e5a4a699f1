"""The manifest: everything a package says of itself, in one canonical JSON document."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from adapter_store import canonical
from adapter_store.base_model import BaseModelRef
from adapter_store.errors import InvalidManifestError, InvalidNameError, UnsupportedVersionError
from adapter_store.peft.config import AdapterConfig
from adapter_store.tssp.format import (
    MANIFEST_TYPE,
    MAX_CONFIG_BYTES,
    MAX_PACKAGE_BYTES,
    MAX_SHARDS,
    SPEC,
    ciphertext_size,
    file_paths,
)
from adapter_store.tssp.privacy import PrivacyStatement
from adapter_store.tssp.signing import PublisherPublicKey, verify_envelope
from adapter_store.types import (
    AdapterName,
    Digest,
    TenantId,
    parse_adapter_name,
    parse_digest,
    parse_tenant_id,
)

AEAD_NAME: Final = "AES-256-GCM-STREAM"
_UUID_VERSION: Final = 7  # RFC 9562: time-ordered

Hex256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=1, le=MAX_PACKAGE_BYTES)]


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of the package; sizes in bytes, before and after encryption."""

    path: str
    size: Size
    ciphertext_size: Size
    ciphertext_sha256: Hex256


class Encryption(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the files are encrypted, and the one data key that they are encrypted with."""

    aead: Literal["AES-256-GCM-STREAM"]
    chunk_size: Literal[1048576]
    key_commitment: Hex256


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a package says of itself. It is a claim until it is inside a VerifiedManifest."""

    spec: Literal["tssp/1"]
    package_id: str
    created_at: Annotated[datetime, Meta(tz=True)]
    tenant: TenantId
    name: AdapterName
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    base_model: BaseModelRef
    adapter: AdapterConfig
    mode: Literal["standard", "he"]
    shards: Annotated[int, Meta(ge=1, le=MAX_SHARDS)]
    files: tuple[FileEntry, ...]
    encryption: Encryption
    privacy: PrivacyStatement
    license: Annotated[str, Meta(max_length=256)]
    description: Annotated[str, Meta(max_length=4096)]
    supersedes: Digest | None

    def to_bytes(self) -> bytes:
        """Return the canonical bytes: what is signed, and what the digest is of."""
        return canonical.encode(self)

    @property
    def digest(self) -> Digest:
        """SHA-256 of the canonical bytes: the adapter's identity everywhere."""
        return Digest(hashlib.sha256(self.to_bytes()).hexdigest())

    @property
    def binding(self) -> bytes:
        """SHA-256 of the manifest with zeros for every `ciphertext_sha256` (32 bytes).

        Every chunk is bound to it. The digest itself cannot serve: it covers the digests of the
        very ciphertext that would depend on it.
        """
        files = tuple(
            msgspec.structs.replace(entry, ciphertext_sha256="0" * 64) for entry in self.files
        )
        return hashlib.sha256(msgspec.structs.replace(self, files=files).to_bytes()).digest()

    @property
    def payload_size(self) -> int:
        """Bytes of all encrypted files together."""
        return sum(entry.ciphertext_size for entry in self.files)


@dataclass(frozen=True, slots=True)
class VerifiedManifest:
    """A manifest whose signatures hold. Only `verify_manifest` makes one; only it decrypts."""

    manifest: Manifest
    digest: Digest
    signer: str
    """Key id of the publisher who signed."""


def verify_manifest(envelope: bytes, trusted: Collection[PublisherPublicKey]) -> VerifiedManifest:
    """Return the manifest in a signature envelope, once one of `trusted` has signed it.

    Raises SignatureError (or one of its kinds) before a byte of the manifest is looked at, and
    then what parse_manifest raises.
    """
    verified = verify_envelope(envelope, MANIFEST_TYPE, trusted)
    return VerifiedManifest(
        manifest=parse_manifest(verified.payload),
        digest=Digest(hashlib.sha256(verified.payload).hexdigest()),
        signer=verified.signer.key_id,
    )


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest in `data`, checked against itself but trusted in nothing.

    Raises UnsupportedVersionError, NotCanonicalError or InvalidManifestError.
    """
    _refuse_other_versions(data)
    manifest = canonical.decode(data, Manifest, what="manifest", error=InvalidManifestError)
    try:
        parse_tenant_id(manifest.tenant)
        parse_adapter_name(manifest.name)
        if manifest.supersedes is not None:
            parse_digest(manifest.supersedes)
    except InvalidNameError as invalid:
        raise InvalidManifestError(f"manifest: {invalid}") from None
    _check_package_id(manifest.package_id)
    _check_files(manifest)
    return manifest


class _Version(Struct):
    """As much of a manifest as tells whether the rest can be understood."""

    spec: str


def _refuse_other_versions(data: bytes) -> None:
    try:
        found = msgspec.json.decode(data, type=_Version).spec
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as invalid:
        raise InvalidManifestError(f"manifest: {invalid}") from None
    if found != SPEC:
        raise UnsupportedVersionError("manifest", expected=f"spec {SPEC}", found=ascii(found[:32]))


def _check_package_id(text: str) -> None:
    try:
        package_id = UUID(text)
    except ValueError:
        package_id = UUID(int=0)
    if package_id.version != _UUID_VERSION or str(package_id) != text:
        raise InvalidManifestError("manifest: package_id", expected="a UUID of version 7")


def _check_files(manifest: Manifest) -> None:
    expected = file_paths(manifest.shards)
    found = tuple(entry.path for entry in manifest.files)
    if found != expected:
        raise InvalidManifestError(
            "manifest: files", expected=", ".join(expected), found=ascii(found[:4])[:200]
        )
    for entry in manifest.files:
        if entry.ciphertext_size != ciphertext_size(entry.size):
            raise InvalidManifestError(
                f"manifest: ciphertext_size of {entry.path}",
                expected=ciphertext_size(entry.size),
                found=entry.ciphertext_size,
            )
    if manifest.files[0].size > MAX_CONFIG_BYTES:
        raise InvalidManifestError(
            f"manifest: size of {manifest.files[0].path}",
            expected=f"at most {MAX_CONFIG_BYTES}",
            found=manifest.files[0].size,
        )
