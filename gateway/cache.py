"""A bounded cache of values that are believed for a short time, one load per key at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

from cachetools import TLRUCache

from gateway.clock import Clock
from gateway.errors import StoreUnavailableError

LOAD_TIMEOUT_S = 5.0
"""Longest a caller waits for a load, even when the loader itself hangs."""

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class ExpiringCache(Generic[_K, _V]):
    """Remembers what `load` returned, counted from when it was asked.

    So a value is never used later than `ttl_s` after it was true. Absence (None) is remembered
    as well, apart from the rest: asking for what does not exist cannot push out what does.
    """

    def __init__(
        self,
        load: Callable[[_K], Awaitable[_V | None]],
        clock: Clock,
        *,
        ttl_s: float,
        max_entries: int,
    ) -> None:
        self._load = load
        self._clock = clock
        self._present = _expiring(max_entries, ttl_s, clock)
        self._absent = _expiring(max_entries, ttl_s, clock)
        self._loads: dict[_K, asyncio.Task[_V | None]] = {}

    async def get(self, key: _K) -> _V | None:
        """Return the value, from memory if it is fresh; raises what `load` raises.

        Raises StoreUnavailableError when the load takes too long.
        """
        for known in (self._present, self._absent):
            entry = known.get(key)
            if entry is not None:
                value: _V | None = entry[1]
                return value
        task = self._loads.get(key)
        if task is None:
            task = asyncio.create_task(self._remember(key), name="cache-load")
            self._loads[key] = task
            task.add_done_callback(lambda done: self._forget_load(key, done))
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                return await asyncio.shield(task)  # others may wait for it too
        except TimeoutError as error:
            raise StoreUnavailableError("the database did not answer in time") from error

    def invalidate(self, key: _K) -> None:
        """Forget a key, also what a load that is under way will find."""
        self._present.pop(key, None)
        self._absent.pop(key, None)
        self._loads.pop(key, None)

    async def _remember(self, key: _K) -> _V | None:
        asked_at = self._clock.monotonic()
        value = await self._load(key)
        if self._loads.get(key) is asyncio.current_task():
            known = self._absent if value is None else self._present
            known[key] = (asked_at, value)
        return value

    def _forget_load(self, key: _K, task: asyncio.Task[_V | None]) -> None:
        if self._loads.get(key) is task:
            del self._loads[key]
        if not task.cancelled():
            task.exception()  # whoever waited has it; if all went away nobody needs it


def _expiring(max_entries: int, ttl_s: float, clock: Clock) -> TLRUCache[Any, Any]:
    return TLRUCache(max_entries, ttu=lambda _, entry, __: entry[0] + ttl_s, timer=clock.monotonic)
