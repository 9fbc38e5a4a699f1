"""The engine's prefix cache, cut into one part per tenant and adapter."""

from __future__ import annotations

import hmac
from typing import Final

from cachetools import LRUCache

from adapter_store.types import Digest, TenantId

_MAX_KNOWN: Final = 10_000
_PURPOSE = b"tensafe/cache-salt/v1\0"


class CacheSalts:
    """HMAC(server key, tenant ‖ digest): never taken from a client, never guessable by one.

    A prefix that one tenant computed is thus never found by another, and how long an answer
    takes says nothing about what others asked (CVE-2025-46570).
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._known: LRUCache[tuple[TenantId, Digest | None], str] = LRUCache(_MAX_KNOWN)

    def of(self, tenant: TenantId, digest: Digest | None) -> str:
        """Return the salt for an adapter of `tenant`, or for its calls of the base model."""
        salt = self._known.get((tenant, digest))
        if salt is None:
            message = _PURPOSE + tenant.encode() + b"\0" + (digest or "base").encode()
            salt = hmac.digest(self._key, message, "sha256").hex()
            self._known[tenant, digest] = salt
        return salt

    def __repr__(self) -> str:
        return "CacheSalts(<key>)"
