"""Canonical JSON (RFC 8785): every block of ours has exactly one encoding, and no other is read."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import rfc8785

from adapter_store.errors import FormatError, NotCanonicalError

T = TypeVar("T")


def encode(value: object) -> bytes:
    """Return the canonical JSON of a msgspec struct, or of lists and dictionaries of them."""
    return rfc8785.dumps(msgspec.to_builtins(value))


def decode(data: bytes, type_: type[T], *, what: str, error: type[FormatError]) -> T:
    """Return `data` as a value of `type_`.

    Raises `error` if it is not such a value, and NotCanonicalError if it is, but not in the
    canonical encoding: other spacing or order, escapes, a repeated member, an unpadded base64.
    """
    try:
        value = msgspec.json.decode(data, type=type_)
    except msgspec.ValidationError as invalid:
        raise error(f"{what}: {invalid}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as invalid:
        raise error(f"{what} is not JSON: {invalid}") from None
    try:
        canonical = encode(value)
    except (rfc8785.CanonicalizationError, RecursionError) as invalid:
        raise NotCanonicalError(f"{what} has no canonical form: {invalid}") from None
    if canonical != data:
        raise NotCanonicalError(f"{what} is not canonical JSON", expected="RFC 8785")
    return value
