"""From the text of a key to who is asking: constant time, cached for seconds."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select

from adapter_store.types import TenantId
from gateway.cache import ExpiringCache
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.db.tables import api_keys, tenants
from gateway.errors import AuthenticationError
from gateway.tenancy.key_text import KeyText, MalformedKeyError, Pepper
from gateway.tenancy.principal import Principal
from gateway.tenancy.scopes import Scope

MAX_CACHED_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class _StoredKey:
    principal: Principal
    mac: bytes = field(repr=False)
    pepper_version: int
    expires_at: datetime | None
    stopped: bool  # revoked, or its tenant is disabled


class Authenticator:
    """Verifies API keys; a revocation anywhere takes effect here within `ttl_s`.

    Fails closed: a key that is not in memory and cannot be looked up is not accepted.
    """

    def __init__(
        self, database: Database, clock: Clock, *, pepper: Pepper, environment: str, ttl_s: float
    ) -> None:
        self._database = database
        self._clock = clock
        self._pepper = pepper
        self._environment = environment
        self._known: ExpiringCache[str, _StoredKey] = ExpiringCache(
            self._load, clock, ttl_s=ttl_s, max_entries=MAX_CACHED_KEYS
        )

    async def authenticate(self, bearer: str | None) -> Principal:
        """Return who holds the key `bearer` (the text after `Bearer `, None if there is none).

        Raises AuthenticationError, the same for every reason: missing, malformed, of another
        environment, unknown, wrong, expired, revoked, tenant disabled. Raises
        StoreUnavailableError when the database is needed and does not answer.
        """
        try:
            key = KeyText.parse(bearer or "")
        except MalformedKeyError:
            raise AuthenticationError from None
        stored = await self._known.get(key.key_id) if key.environment == self._environment else None
        # The MAC is computed and compared for an unknown id as well: that an id exists cannot be
        # told from the time that refusing takes.
        expected = bytes(32) if stored is None else stored.mac
        matches = hmac.compare_digest(key.mac(self._pepper), expected)
        if stored is None or not matches or not self._usable(stored):
            raise AuthenticationError
        return stored.principal

    def _usable(self, stored: _StoredKey) -> bool:
        expired = stored.expires_at is not None and stored.expires_at <= self._clock.now()
        return not (expired or stored.stopped or stored.pepper_version != self._pepper.version)

    async def _load(self, key_id: str) -> _StoredKey | None:
        query = (
            select(api_keys, tenants.c.disabled_at)
            .outerjoin(tenants, api_keys.c.tenant == tenants.c.id)
            .where(api_keys.c.key_id == key_id)
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        tenant = None if row.tenant is None else TenantId(row.tenant)
        scopes = frozenset(map(Scope, row.scopes.split()))
        return _StoredKey(
            principal=Principal(key_id=row.key_id, tenant=tenant, scopes=scopes),
            mac=row.mac,
            pepper_version=row.pepper_version,
            expires_at=row.expires_at,
            stopped=row.revoked_at is not None or row.disabled_at is not None,
        )
