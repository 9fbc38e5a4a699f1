"""The base model that the pool serves, as last heard."""

from __future__ import annotations

import asyncio

from gateway.adapters.pool_control import BaseModel, PoolControl
from gateway.clock import Clock
from gateway.errors import UpstreamError

FRESH_S = 60.0
"""A pool that is restarted with another model is noticed within this time."""

_RETRY_S = 1.0


class BaseModelDirectory:
    """Asks the pool at most once a minute; keeps the last answer while the pool is away."""

    def __init__(self, pool: PoolControl, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._known: BaseModel | None = None
        self._ask_again_at = 0.0
        self._asking = asyncio.Lock()

    async def current(self) -> BaseModel:
        """Return the base model; raises UpstreamError if the pool never answered."""
        if self._known is not None and self._clock.monotonic() < self._ask_again_at:
            return self._known
        async with self._asking:
            if self._known is None or self._clock.monotonic() >= self._ask_again_at:
                await self._ask()
        if self._known is None:  # pragma: no cover - _ask sets it or raises
            raise AssertionError("asked and not known")
        return self._known

    async def _ask(self) -> None:
        try:
            self._known = await self._pool.base_model()
            self._ask_again_at = self._clock.monotonic() + FRESH_S
        except UpstreamError:
            self._ask_again_at = self._clock.monotonic() + _RETRY_S
            if self._known is None:
                raise
