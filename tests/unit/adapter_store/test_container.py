"""The outer form of a package, fed in any pieces."""

from __future__ import annotations

import pytest

from adapter_store.errors import (
    NotAPackageError,
    TooLargeError,
    TruncatedError,
    UnsupportedVersionError,
)
from adapter_store.tssp.container import MAX_HEADER_BYTES, Header, HeaderParser

HEADER = Header(envelope=b"envelope", recipients=b"[]")
PACKAGE = HEADER.to_bytes() + b"payload"


@pytest.mark.parametrize("size", range(1, len(PACKAGE) + 1))
def test_a_header_is_found_however_its_bytes_come(size: int) -> None:
    parser, rest = HeaderParser(), b""
    for start in range(0, len(PACKAGE), size):
        piece = PACKAGE[start : start + size]
        rest += piece if parser.header is not None else parser.feed(piece)
    assert (parser.finish(), rest) == (HEADER, b"payload")


@pytest.mark.parametrize("length", range(len(HEADER.to_bytes())))
def test_a_header_that_ends_early_is_truncated(length: int) -> None:
    parser = HeaderParser()
    parser.feed(PACKAGE[:length])
    with pytest.raises(TruncatedError):
        parser.finish()


def test_sections_may_be_empty() -> None:
    parser = HeaderParser()
    assert parser.feed(Header(b"", b"").to_bytes()) == b""
    assert parser.finish() == Header(b"", b"")


def test_the_magic_number_is_the_one_of_the_specification() -> None:
    assert PACKAGE[:8] == bytes([0x54, 0x53, 0x53, 0x50, 0x01, 0x0D, 0x0A, 0x1A])
    assert PACKAGE[8:12] == bytes([8, 0, 0, 0])


@pytest.mark.parametrize("index", range(8))
def test_every_byte_of_the_magic_number_counts(index: int) -> None:
    changed = bytearray(PACKAGE)
    changed[index] ^= 0x20
    expected = NotAPackageError if index < 4 else UnsupportedVersionError
    with pytest.raises(expected, match="expected 545353500"):
        HeaderParser().feed(bytes(changed))


def test_a_section_over_its_limit_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(TooLargeError, match="signature envelope: expected at most 1048576"):
        HeaderParser().feed(PACKAGE[:8] + (2**20 + 1).to_bytes(4, "little"))
    HeaderParser().feed(PACKAGE[:8] + (2**20).to_bytes(4, "little"))
    with pytest.raises(TooLargeError, match="recipients block: expected at most 65536"):
        HeaderParser().feed(HEADER.to_bytes()[:-6] + (2**16 + 1).to_bytes(4, "little"))


def test_the_largest_header_is_as_large_as_it_says() -> None:
    assert len(Header(bytes(1 << 20), bytes(64 << 10)).to_bytes()) == MAX_HEADER_BYTES
