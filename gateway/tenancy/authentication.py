"""From the text of a key to who is asking: constant time, cached for seconds."""

from __future__ import annotations

from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.tenancy.key_text import Pepper
from gateway.tenancy.principal import Principal


class Authenticator:
    """Verifies API keys; a revocation anywhere takes effect here within `ttl_s`."""

    def __init__(
        self, database: Database, clock: Clock, *, pepper: Pepper, environment: str, ttl_s: float
    ) -> None:
        raise NotImplementedError

    async def authenticate(self, bearer: str | None) -> Principal:
        """Return who holds the key `bearer` (the text after `Bearer `, None if there is none).

        Raises AuthenticationError, the same for every reason: missing, malformed, of another
        environment, unknown, wrong, expired, revoked, tenant disabled. Raises
        StoreUnavailableError when the database is needed and does not answer.
        """
        raise NotImplementedError
