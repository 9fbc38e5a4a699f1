"""Permits for the engine: so many at a time, so many waiting, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.errors import OverloadedError


class Permits:
    """First come, first served. `on_depth` hears of every change in how many wait."""

    def __init__(
        self,
        *,
        max_concurrent: int,
        max_queued: int,
        queue_timeout_s: float,
        on_depth: Callable[[int], None],
    ) -> None:
        self._free = asyncio.Semaphore(max_concurrent)
        self._max_queued = max_queued
        self._queue_timeout_s = queue_timeout_s
        self._on_depth = on_depth
        self._waiting = 0

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Hold a permit. Raises OverloadedError when too many wait, or the turn does not come."""
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()
        try:
            yield
        finally:
            self._free.release()

    async def _wait(self) -> None:
        if self._waiting >= self._max_queued:
            raise OverloadedError("Too many requests are waiting. Please try again shortly.")
        self._change_depth(+1)
        try:
            async with asyncio.timeout(self._queue_timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise OverloadedError("No turn came in time. Please try again shortly.") from None
        finally:
            self._change_depth(-1)

    def _change_depth(self, by: int) -> None:
        self._waiting += by
        self._on_depth(self._waiting)
