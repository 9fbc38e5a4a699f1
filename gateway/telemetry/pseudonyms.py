"""Keyed pseudonyms: the same tenant is the same label, and nobody without the key knows which."""

from __future__ import annotations

import hmac
from typing import Final

from cachetools import LRUCache

from adapter_store.types import TenantId

_MAX_KNOWN: Final = 10_000
_PSEUDONYM_HEX_DIGITS: Final = 12  # 48 bits: no collisions to speak of among thousands of tenants
_PURPOSE = b"tensafe/telemetry/tenant/v1\0"


class Pseudonyms:
    """Names tenants in metrics and logs; with `plain`, by their id."""

    def __init__(self, key: bytes, *, plain: bool = False) -> None:
        self._key = key
        self._plain = plain
        self._known: LRUCache[TenantId, str] = LRUCache(_MAX_KNOWN)

    def of(self, tenant: TenantId) -> str:
        """Return the name under which telemetry knows `tenant`."""
        if self._plain:
            return tenant
        name = self._known.get(tenant)
        if name is None:
            mac = hmac.digest(self._key, _PURPOSE + tenant.encode(), "sha256")
            name = self._known[tenant] = "t-" + mac.hex()[:_PSEUDONYM_HEX_DIGITS]
        return name
