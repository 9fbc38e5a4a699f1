"""What an API key may do."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from gateway.errors import InvalidRequestError


class Scope(StrEnum):
    """One permission of an API key."""

    INFERENCE = "inference"
    ADAPTERS_READ = "adapters:read"
    ADAPTERS_WRITE = "adapters:write"
    AUDIT_READ = "audit:read"
    ADMIN = "admin"


def parse_scopes(names: Iterable[str]) -> frozenset[Scope]:
    """Return the scopes with these names; raises InvalidRequestError for none or an unknown one."""
    try:
        scopes = frozenset(Scope(name) for name in names)
    except ValueError as error:
        known = ", ".join(Scope)
        raise InvalidRequestError(f"unknown scope: expected {known}", param="scopes") from error
    if not scopes:
        raise InvalidRequestError("a key needs at least one scope", param="scopes")
    return scopes
