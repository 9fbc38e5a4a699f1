"""Keeps one engine running: starts it, watches it, kills it when it is wedged, starts it again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from runtime.engine_client import EngineState
from runtime.errors import EngineContractError, EngineStartError, EngineUnavailableError
from runtime.liveness import LivenessProbe, ProbedEngine
from runtime.settings import LivenessOptions

START_POLL_S = 0.25

_logger = logging.getLogger("tensafe.pool")


class RunningEngine(Protocol):
    """An engine's processes."""

    @property
    def running(self) -> bool: ...

    @property
    def log_end(self) -> str: ...

    async def wait(self) -> int: ...

    async def stop(self) -> None: ...


class WatchedEngine(ProbedEngine, Protocol):
    """An engine's HTTP side."""

    async def state(self) -> EngineState: ...


@dataclass(frozen=True, slots=True)
class Health:
    """What the pool says of itself; `reason` is empty when it is ready."""

    status: Literal["starting", "ready", "unhealthy", "stopped"]
    reason: str = ""


class Supervisor:
    """Runs engines one after the other until it is cancelled.

    The first engine must come up, or `run` raises EngineStartError: a setting is wrong then,
    and trying again helps nobody. Later ones are started again for ever, with growing delays.
    """

    def __init__(
        self,
        *,
        start: Callable[[], Awaitable[RunningEngine]],
        client: WatchedEngine,
        model: str,
        options: LivenessOptions,
        must_restart: Callable[[], bool],
        before_start: Callable[[], None],
    ) -> None:
        self._start = start
        self._client = client
        self._model = model
        self._options = options
        self._must_restart = must_restart
        self._before_start = before_start
        self.health = Health("starting", "the engine is being started")
        self.state: EngineState | None = None

    async def run(self) -> None:
        """Supervise until cancelled; raises EngineStartError if the first start fails."""
        delay_s = self._options.restart_delay_s
        while True:
            reason = await self._run_once()
            delay_s = self._options.restart_delay_s if self._came_up else 2 * delay_s
            delay_s = min(delay_s, self._options.max_restart_delay_s)
            _logger.warning("engine ended (%s), starting it again in %.1f s", reason, delay_s)
            self.health = Health("starting", f"the engine is started again: {reason}")
            await asyncio.sleep(delay_s)

    async def _run_once(self) -> str:
        """Run one engine to its end, and return why it ended."""
        self._came_up = False
        self._before_start()
        engine = await self._start()
        try:
            await self._wait_until_it_serves(engine)
            self._came_up = True
            return await self._watch(engine)
        except EngineStartError as error:
            if self.state is None:
                raise
            return str(error)
        finally:
            self.health = Health("stopped", "the engine is being stopped")
            await engine.stop()

    async def _wait_until_it_serves(self, engine: RunningEngine) -> None:
        try:
            async with asyncio.timeout(self._options.start_timeout_s):
                while True:
                    if await self._serves(engine):
                        return
                    await asyncio.sleep(START_POLL_S)
        except TimeoutError:
            raise EngineStartError(
                f"the engine did not serve within {self._options.start_timeout_s:.0f} s; "
                f"the end of its log:\n{engine.log_end}"
            ) from None

    async def _serves(self, engine: RunningEngine) -> bool:
        if not engine.running:
            raise EngineStartError(
                f"the engine ended while starting; the end of its log:\n{engine.log_end}"
            )
        try:
            state = await self._client.state()
            await self._client.generate_one_token(self._model)
        except EngineUnavailableError:
            return False
        if state.hooks is None:
            raise EngineContractError("the engine came up without its adapter hooks")
        self.state = state
        self.health = Health("ready")
        return True

    async def _watch(self, engine: RunningEngine) -> str:
        """Return the reason when the engine has ended or must be ended."""
        probe = LivenessProbe(self._client, self._model, self._options)
        ended = asyncio.ensure_future(engine.wait())
        try:
            while True:
                await asyncio.wait([ended], timeout=self._options.probe_interval_s)
                if ended.done():
                    return f"its first process ended with status {ended.result()}"
                if self._must_restart():
                    return "too many adapters have failed in it"
                alive = await self._probe(probe, ended)
                if alive:
                    self.health = Health("ready")
                elif probe.wedged:
                    return f"it is wedged: {probe.failures} probes in a row got no token"
                elif not ended.done():
                    self.health = Health("unhealthy", "the engine generates no tokens")
        finally:
            ended.cancel()

    async def _probe(self, probe: LivenessProbe, ended: asyncio.Future[int]) -> bool:
        """Probe, but not longer than the engine runs."""
        probing = asyncio.ensure_future(probe.probe())
        either: set[asyncio.Future[Any]] = {probing, ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if probing.done():
            return probing.result()
        probing.cancel()
        return False
