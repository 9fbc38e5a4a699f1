"""Reading a package: verify what it says, then what it holds, and only then decrypt it.

The order, which the types enforce:

1. header within its limits                       HeaderParser    → Header
2. both signatures by one trusted publisher       verify_manifest → VerifiedManifest
3. the tenant, base model and mode are ours       Policy
4. sizes and SHA-256 of every file's ciphertext   PackageVerifier → VerifiedPackage
5. the data key is the one committed to           UnlockedPackage
6. every chunk is whole and in its place          UnlockedPackage.decrypt_into

An upload runs 1 to 4 as its bytes come. Loading runs 1 to 3, 5, then 4 and 6 together.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from adapter_store.errors import (
    DigestMismatchError,
    TooLargeError,
    TrailingDataError,
    TruncatedError,
)
from adapter_store.tssp.container import Header, HeaderParser
from adapter_store.tssp.encryption import DataKey, FileCipher, check_commitment
from adapter_store.tssp.format import EMPTY_RECIPIENTS, SEALED_CHUNK_BYTES, TAG_BYTES, Limits
from adapter_store.tssp.manifest import FileEntry, VerifiedManifest, verify_manifest
from adapter_store.tssp.policy import Policy
from adapter_store.tssp.recipients import Recipient, decode_recipients
from adapter_store.tssp.signing import PublisherPublicKey

_HEADER_WINDOW_BYTES: Final = 64 << 10  # a usual header, with its signatures, is 12 KiB
_WINDOW_BYTES: Final = 4 * SEALED_CHUNK_BYTES

ReadRange = Callable[[int, int], memoryview]
"""Returns the bytes of a package from a start to an end."""


@dataclass(frozen=True, slots=True)
class VerifiedPackage:
    """A whole package whose signatures, policies and ciphertext digests hold."""

    verified: VerifiedManifest
    recipients: tuple[Recipient, ...]
    recipients_json: bytes
    sealed_bytes: int
    """Size of the package as stored: with the recipients taken out."""


class PackageVerifier:
    """Verifies a package while its bytes come, in any pieces; holds at most its header.

    What `feed` returns, in order, is the sealed package for the store: the same bytes with an
    empty recipients block. Nothing is returned before signatures and policies hold, and none of
    it may be used before `finish` has returned.
    """

    def __init__(
        self,
        trusted: Collection[PublisherPublicKey],
        policies: Sequence[Policy],
        limits: Limits,
    ) -> None:
        self._trusted = trusted
        self._policies = policies
        self._limits = limits
        self._parser = HeaderParser()
        self._payload: _PayloadVerifier | None = None
        self._package: VerifiedPackage | None = None

    @property
    def package(self) -> VerifiedPackage | None:
        """What the header says, as soon as it is verified; its payload may be yet to come."""
        return self._package

    def feed(self, data: bytes) -> list[bytes]:
        """Take more bytes; returns what is to be stored of them.

        Raises a FormatError or VerificationError at the first byte that shows the fault.
        """
        if self._payload is not None:
            self._payload.feed(data)
            return [data]
        rest = self._parser.feed(data)
        header = self._parser.header
        if header is None:
            return []
        package = _verify_header(header, self._trusted, self._policies, self._limits)
        self._package = package
        self._payload = _PayloadVerifier(package.verified.manifest.files)
        self._payload.feed(rest)
        sealed = Header(envelope=header.envelope, recipients=EMPTY_RECIPIENTS).to_bytes()
        return [sealed, rest] if rest else [sealed]

    def finish(self) -> VerifiedPackage:
        """Return the package, now that all of its bytes have been fed; raises TruncatedError."""
        self._parser.finish()
        if self._payload is None or self._package is None:
            raise TruncatedError("package", expected="a header")
        self._payload.finish()
        return self._package


class _PayloadVerifier:
    """Checks the size and the digest of each file's ciphertext while it flows."""

    def __init__(self, files: Sequence[FileEntry]) -> None:
        self._files = files
        self._index = 0
        self._missing = files[0].ciphertext_size
        self._hash = hashlib.sha256()

    def feed(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            if self._index == len(self._files):
                raise TrailingDataError(
                    "package", expected="its end", found=f"{len(rest)} more bytes"
                )
            part, rest = rest[: self._missing], rest[self._missing :]
            self._hash.update(part)
            self._missing -= len(part)
            if self._missing == 0:
                self._next_file()

    def finish(self) -> None:
        if self._index < len(self._files):
            raise TruncatedError(
                f"package, in {self._files[self._index].path}",
                expected=f"{self._missing} more bytes",
                found="its end",
            )

    def _next_file(self) -> None:
        _check_digest(self._files[self._index], self._hash.hexdigest())
        self._index += 1
        if self._index < len(self._files):
            self._missing = self._files[self._index].ciphertext_size
            self._hash = hashlib.sha256()


@dataclass(frozen=True, slots=True)
class StoredPackage:
    """A package in a store, of which the header is verified and the payload is yet unread."""

    verified: VerifiedManifest
    recipients: tuple[Recipient, ...]
    payload_start: int
    read: ReadRange


def open_package(
    read: ReadRange,
    size: int,
    *,
    trusted: Collection[PublisherPublicKey],
    policies: Sequence[Policy],
    limits: Limits,
) -> StoredPackage:
    """Return a package of `size` bytes with its header verified; reads only that.

    Raises a FormatError, a VerificationError, or what `read` raises.
    """
    parser = HeaderParser()
    position = 0
    while parser.header is None and position < size:
        end = min(position + _HEADER_WINDOW_BYTES, size)
        parser.feed(read(position, end))
        position = end
    header = parser.finish()
    package = _verify_header(header, trusted, policies, limits)
    start = len(header.to_bytes())
    expected = start + package.verified.manifest.payload_size
    if size != expected:
        kind = TruncatedError if size < expected else TrailingDataError
        raise kind("package", expected=f"{expected} bytes", found=size)
    return StoredPackage(package.verified, package.recipients, start, read)


class UnlockedPackage:
    """A verified package with its data key, which is the one that the publisher committed to."""

    def __init__(self, package: StoredPackage, key: DataKey) -> None:
        """Raise KeyCommitmentError for another key."""
        check_commitment(package.verified, key)
        self._package = package
        self._key = key

    def decrypt_into(self, index: int, out: memoryview) -> None:
        """Decrypt file `index` into `out`, which has exactly its size.

        Raises ChunkError or DigestMismatchError; `out` then holds plaintext that must not be
        used, and is the caller's to wipe.
        """
        entry = self._package.verified.manifest.files[index]
        cipher = FileCipher(self._key, self._package.verified.manifest, index)
        hash_ = hashlib.sha256()
        number = position = 0
        # SHA-256 is slower than AES-GCM; on a thread beside it, the slower alone sets the pace.
        with ThreadPoolExecutor(max_workers=1) as hasher:
            hashed: Future[None] | None = None
            for sealed in self._windows(index):
                if hashed is not None:
                    hashed.result()
                hashed = hasher.submit(hash_.update, sealed)
                for start in range(0, len(sealed), SEALED_CHUNK_BYTES):
                    chunk = sealed[start : start + SEALED_CHUNK_BYTES]
                    size = len(chunk) - TAG_BYTES
                    cipher.open_into(number, chunk, out[position : position + size])
                    number, position = number + 1, position + size
        _check_digest(entry, hash_.hexdigest())

    def _windows(self, index: int) -> Iterator[memoryview]:
        """Yield the ciphertext of a file, a few whole chunks at a time."""
        files = self._package.verified.manifest.files
        start = self._package.payload_start + sum(file.ciphertext_size for file in files[:index])
        end = start + files[index].ciphertext_size
        for window in range(start, end, _WINDOW_BYTES):
            yield self._package.read(window, min(window + _WINDOW_BYTES, end))


def _verify_header(
    header: Header,
    trusted: Collection[PublisherPublicKey],
    policies: Sequence[Policy],
    limits: Limits,
) -> VerifiedPackage:
    verified = verify_manifest(header.envelope, trusted)
    for policy in policies:
        policy.verify(verified)
    recipients = decode_recipients(header.recipients)
    sealed = Header(envelope=header.envelope, recipients=EMPTY_RECIPIENTS)
    sealed_bytes = len(sealed.to_bytes()) + verified.manifest.payload_size
    if sealed_bytes > limits.max_package_bytes:
        raise TooLargeError(
            "package", expected=f"at most {limits.max_package_bytes} bytes", found=sealed_bytes
        )
    return VerifiedPackage(verified, recipients, header.recipients, sealed_bytes)


def _check_digest(entry: FileEntry, found: str) -> None:
    if not hmac.compare_digest(found, entry.ciphertext_sha256):
        raise DigestMismatchError(
            f"ciphertext of {entry.path}",
            expected=f"SHA-256 {entry.ciphertext_sha256}",
            found=found,
        )
