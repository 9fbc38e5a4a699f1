"""The engine's prefix cache, cut into one part per tenant and adapter."""

from __future__ import annotations

import hmac

from adapter_store.types import Digest, TenantId

_PURPOSE = b"tensafe/cache-salt/v1\0"


class CacheSalts:
    """HMAC(server key, tenant ‖ digest): never taken from a client, never guessable by one.

    A prefix that one tenant computed is thus never found by another, and how long an answer
    takes says nothing about what others asked (CVE-2025-46570).
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, tenant: TenantId, digest: Digest | None) -> str:
        """Return the salt for an adapter of `tenant`, or for its calls of the base model."""
        message = _PURPOSE + tenant.encode() + b"\0" + (digest or "base").encode()
        return hmac.digest(self._key, message, "sha256").hex()

    def __repr__(self) -> str:
        return "CacheSalts(<key>)"
