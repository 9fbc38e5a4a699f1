"""The outer form of a package: magic, signature envelope, recipients, payload. No IO, no trust."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from adapter_store.errors import (
    NotAPackageError,
    TooLargeError,
    TruncatedError,
    UnsupportedVersionError,
)
from adapter_store.tssp.format import (
    LENGTH_BYTES,
    MAGIC,
    MAGIC_NAME,
    MAX_ENVELOPE_BYTES,
    MAX_RECIPIENTS_BYTES,
)

MAX_HEADER_BYTES: Final = len(MAGIC) + 2 * LENGTH_BYTES + MAX_ENVELOPE_BYTES + MAX_RECIPIENTS_BYTES


@dataclass(frozen=True, slots=True)
class Header:
    """What comes before the payload, as bytes that nobody has verified."""

    envelope: bytes
    recipients: bytes

    def to_bytes(self) -> bytes:
        """Return the bytes that begin a package with this header."""
        return b"".join(
            (
                MAGIC,
                len(self.envelope).to_bytes(LENGTH_BYTES, "little"),
                self.envelope,
                len(self.recipients).to_bytes(LENGTH_BYTES, "little"),
                self.recipients,
            )
        )


class HeaderParser:
    """Takes a package's bytes as they come, until its header is complete.

    Holds at most MAX_HEADER_BYTES and what the last `feed` brought. A header that is too large
    is refused by its announced length, before those bytes are waited for.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._parser = self._parse()
        self._needed = next(self._parser)
        self.header: Header | None = None

    def feed(self, data: bytes | memoryview) -> bytes:
        """Take more bytes; returns those after the header, once `header` is set.

        Raises NotAPackageError, UnsupportedVersionError or TooLargeError.
        """
        self._buffer += data
        while self.header is None and len(self._buffer) >= self._needed:
            section = bytes(self._buffer[: self._needed])
            del self._buffer[: self._needed]
            try:
                self._needed = self._parser.send(section)
            except StopIteration as finished:
                self.header = finished.value
        if self.header is None:
            return b""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def finish(self) -> Header:
        """Return the header; raises TruncatedError if the bytes have ended before it did."""
        if self.header is None:
            raise TruncatedError(
                "package header", expected=f"{self._needed} more bytes", found=len(self._buffer)
            )
        return self.header

    def _parse(self) -> Generator[int, bytes, Header]:
        """Ask for the sections one after the other, each by its length."""
        _check_magic((yield len(MAGIC)))
        length = _length((yield LENGTH_BYTES), "signature envelope", MAX_ENVELOPE_BYTES)
        envelope = yield length
        length = _length((yield LENGTH_BYTES), "recipients block", MAX_RECIPIENTS_BYTES)
        recipients = yield length
        return Header(envelope=envelope, recipients=recipients)


def _check_magic(found: bytes) -> None:
    if not found.startswith(MAGIC_NAME):
        raise NotAPackageError("magic number", expected=MAGIC.hex(), found=found.hex())
    if found != MAGIC:
        raise UnsupportedVersionError("magic number", expected=MAGIC.hex(), found=found.hex())


def _length(field: bytes, what: str, limit: int) -> int:
    length = int.from_bytes(field, "little")
    if length > limit:
        raise TooLargeError(what, expected=f"at most {limit} bytes", found=length)
    return length
