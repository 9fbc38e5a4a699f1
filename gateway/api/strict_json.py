"""JSON from strangers: typed, without duplicate keys, and every refusal names its reason.

Two parsers that see a different one of two equal keys are an old way past a gatekeeper, so
duplicates are refused at any depth.
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

from gateway.errors import InvalidRequestError

Decoded = TypeVar("Decoded")

_MAX_NAME_CHARS: Final = 64
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `([^`]*)`")
_MISSING_FIELD = re.compile(r"Object missing required field `([^`]*)`")


def decode(decoder: msgspec.json.Decoder[Decoded], body: bytes) -> Decoded:
    """Return what `decoder` makes of `body`; raises InvalidRequestError for everything else."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from error
    except UnicodeDecodeError as error:
        raise InvalidRequestError("the body is not valid UTF-8", code="invalid_utf8") from error
    except msgspec.DecodeError as error:
        raise InvalidRequestError("the body is not valid JSON", code="invalid_json") from error
    except RecursionError as error:
        raise InvalidRequestError("the JSON is nested too deeply", code="invalid_json") from error


def decode_strict(body: bytes, kind: type[Decoded]) -> Decoded:
    """Return `body` as `kind`; raises InvalidRequestError, for duplicate keys as well."""
    decoded = decode(msgspec.json.Decoder(kind), body)
    refuse_duplicates(body, msgspec.json.encode(decode(msgspec.json.Decoder(), body)))
    return decoded


def refuse_duplicates(body: bytes, encoded: bytes) -> None:
    """Raise InvalidRequestError if `body` has a duplicate key.

    `encoded` is `body` decoded and encoded again: a name that occurs twice in an object survives
    that once, so a colon is missing.
    """
    if _count_members(body) != _count_members(encoded):
        raise InvalidRequestError("the JSON body has a duplicate key", code="duplicate_key")


def _count_members(json_text: bytes) -> int:
    """Count the members of all objects: the colons outside strings."""
    return _STRING.sub(b"", json_text).count(b":")


def _wrong_field(message: str) -> InvalidRequestError:
    """Say which field is wrong. msgspec's messages name types and fields, not the values."""
    found = _PLACE.search(message)
    place = found.group(1) if found else ""
    if unknown := _UNKNOWN_FIELD.match(message):
        param = _join(place, unknown.group(1))
        return InvalidRequestError(
            f"Unrecognized request argument supplied: {param}", param=param, code="unknown_field"
        )
    if missing := _MISSING_FIELD.match(message):
        param = _join(place, missing.group(1))
        return InvalidRequestError(
            f"Missing required parameter: {param}", param=param, code="missing_field"
        )
    text = _PLACE.sub("", message)
    return InvalidRequestError(text, param=place or None, code="invalid_type")


def _join(place: str, name: str) -> str:
    name = name[:_MAX_NAME_CHARS]
    return f"{place}.{name}" if place else name
