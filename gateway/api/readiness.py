"""Whether this gateway can serve now: asked by anyone, so answered from a short memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.clock import Clock
from gateway.errors import GatewayError

FRESH_S: Final = 1.0
_CHECK_TIMEOUT_S: Final = 3.0


class Database(Protocol):
    """What readiness asks of the database."""

    async def ping(self) -> None:
        """Return if it answers; raises GatewayError."""
        ...


class Pool(Protocol):
    """What readiness asks of the pool."""

    async def check(self) -> None:
        """Return if it is ready; raises GatewayError."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """Each dependency, and whether it answers."""

    checks: dict[str, bool]

    @property
    def ready(self) -> bool:
        """Whether all of them do."""
        return all(self.checks.values())


class Readiness:
    """Checks everything at most once a second, however often it is asked."""

    def __init__(self, database: Database, pool: Pool, clock: Clock) -> None:
        self._database = database
        self._pool = pool
        self._clock = clock
        self._last = Report({})
        self._stale_at = float("-inf")
        self._checking = asyncio.Lock()

    async def report(self) -> Report:
        """Return how things stand, or stood within the last second. Never raises."""
        async with self._checking:
            if self._clock.monotonic() >= self._stale_at:
                database, pool = await asyncio.gather(
                    _answers(self._database.ping()), _answers(self._pool.check())
                )
                self._last = Report({"database": database, "pool": pool})
                self._stale_at = self._clock.monotonic() + FRESH_S
        return self._last


async def _answers(check: Awaitable[None]) -> bool:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            await check
    except (GatewayError, TimeoutError):
        return False
    return True
