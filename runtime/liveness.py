"""Whether an engine lives: it generates a token, or has at least made progress meanwhile."""

from __future__ import annotations

import asyncio
from typing import Protocol

from runtime.errors import EngineUnavailableError
from runtime.settings import LivenessOptions


class ProbedEngine(Protocol):
    """What the probe asks of an engine."""

    async def generate_one_token(self, model: str) -> None: ...

    async def tokens_so_far(self) -> float: ...


class LivenessProbe:
    """Judges one engine by a one-token generation.

    `/health` stays 200 while a wedged engine hangs every request, so it is not asked. A full
    engine may keep the probe waiting although it works: an engine whose token counters moved
    during the wait is alive.
    """

    def __init__(self, engine: ProbedEngine, model: str, options: LivenessOptions) -> None:
        self._engine = engine
        self._model = model
        self._options = options
        self._tokens = -1.0
        self.failures = 0

    @property
    def wedged(self) -> bool:
        """True when so many probes in a row have failed that the engine must be restarted."""
        return self.failures >= self._options.failures_until_restart

    async def probe(self) -> bool:
        """Return whether the engine is alive now, and count."""
        alive = await self._generates() or await self._makes_progress()
        self.failures = 0 if alive else self.failures + 1
        return alive

    async def _generates(self) -> bool:
        try:
            async with asyncio.timeout(self._options.probe_timeout_s):
                await self._engine.generate_one_token(self._model)
        except (TimeoutError, EngineUnavailableError):
            return False
        return True

    async def _makes_progress(self) -> bool:
        try:
            async with asyncio.timeout(self._options.probe_timeout_s):
                tokens = await self._engine.tokens_so_far()
        except (TimeoutError, EngineUnavailableError):
            return False
        moved = 0 <= self._tokens < tokens
        self._tokens = tokens
        return moved
