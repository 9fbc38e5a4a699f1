"""How callers name adapters: `name`, `name@7`, or a digest."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adapter_store.errors import InvalidNameError
from adapter_store.types import AdapterName, Digest, parse_adapter_name, parse_digest
from gateway.errors import NotFoundError

_MAX_VERSION = 2**31 - 1  # as the manifest's
_VERSION = re.compile(r"[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Named:
    """`name`: whichever version it means now."""

    name: AdapterName


@dataclass(frozen=True, slots=True)
class Versioned:
    """`name@7`: that version."""

    name: AdapterName
    version: int


Alias = Named | Versioned
Reference = Named | Versioned | Digest


def parse_alias(text: str) -> Alias:
    """Return the alias in `text`; raises NotFoundError, since nothing can be called otherwise."""
    name, at, version = text.partition("@")
    try:
        parsed = parse_adapter_name(name)
    except InvalidNameError as error:
        raise no_such_adapter() from error
    if not at:
        return Named(parsed)
    if not _VERSION.fullmatch(version) or int(version) > _MAX_VERSION:
        raise no_such_adapter()
    return Versioned(parsed, int(version))


def parse_reference(text: str) -> Reference:
    """Return the reference in `text`; raises NotFoundError, since nothing has another name."""
    try:
        return parse_digest(text)
    except InvalidNameError:
        return parse_alias(text)


def no_such_adapter() -> NotFoundError:
    """Return the one answer for what does not exist and for what belongs to somebody else."""
    return NotFoundError("there is no such adapter")
