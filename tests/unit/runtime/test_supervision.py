"""When an engine counts as alive, as wedged, and what is done about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from runtime.engine_client import EngineState, sum_of_counters
from runtime.errors import EngineContractError, EngineStartError, EngineUnavailableError
from runtime.liveness import LivenessProbe
from runtime.settings import LivenessOptions
from runtime.supervisor import Supervisor

pytestmark = pytest.mark.anyio

OPTIONS = LivenessOptions(
    start_timeout_s=0.2,
    probe_interval_s=0.01,
    probe_timeout_s=0.05,
    failures_until_restart=3,
    restart_delay_s=0.01,
    max_restart_delay_s=0.02,
)


class FakeEngine:
    """An engine whose HTTP side and processes do what the test says."""

    log_end = "the last line of the log"

    def __init__(self) -> None:
        self.hooks: str | None = "tensafe"
        self.generates = True
        self.hangs = False
        self.tokens = 0.0
        self.ended = asyncio.Event()
        self.stopped = False
        self.started = False

    @property
    def running(self) -> bool:
        return not self.ended.is_set()

    async def wait(self) -> int:
        await self.ended.wait()
        return -9

    async def stop(self) -> None:
        self.stopped = True
        self.ended.set()


class FakeClient:
    """Talks to whichever engine was started last."""

    def __init__(self) -> None:
        self.engines: list[FakeEngine] = []
        self.prepare: Callable[[FakeEngine], None] = lambda engine: None

    async def start(self) -> FakeEngine:
        self.engines.append(FakeEngine())
        self.prepare(self.engines[-1])
        return self.engines[-1]

    async def state(self) -> EngineState:
        hooks = self.engines[-1].hooks
        return EngineState(hooks=hooks, max_model_len=1, max_lora_rank=8, adapters=[], locks=0)

    async def generate_one_token(self, model: str) -> None:
        assert model == "base"
        engine = self.engines[-1]
        if engine.hangs:
            await asyncio.sleep(3600)
        if not engine.generates or not engine.running:
            raise EngineUnavailableError("no")

    async def tokens_so_far(self) -> float:
        if self.engines[-1].hangs and self.engines[-1].tokens == 0:
            await asyncio.sleep(3600)
        return self.engines[-1].tokens


def supervisor(
    client: FakeClient, *, must_restart: Callable[[], bool] = lambda: False
) -> Supervisor:
    return Supervisor(
        start=client.start,
        client=client,
        model="base",
        options=OPTIONS,
        must_restart=must_restart,
        before_start=lambda: None,
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_engine_that_hangs_is_wedged_after_three_probes() -> None:
    client = FakeClient()
    engine = await client.start()
    probe = LivenessProbe(client, "base", OPTIONS)
    assert await probe.probe()

    engine.hangs = True
    answers = [await probe.probe() for _ in range(3)]

    assert answers == [False, False, False]
    assert probe.wedged
    engine.hangs = False
    assert await probe.probe()
    assert not probe.wedged


async def test_a_busy_engine_that_makes_progress_is_alive_though_the_probe_waits() -> None:
    client = FakeClient()
    engine = await client.start()
    engine.generates = False
    probe = LivenessProbe(client, "base", OPTIONS)

    alive = []
    for tokens in (10, 20, 30, 30):
        engine.tokens = tokens
        alive.append(await probe.probe())

    assert alive == [False, True, True, False]


def test_only_token_counters_count_as_progress() -> None:
    metrics = "\n".join(
        [
            "# HELP vllm:generation_tokens_total x",
            'vllm:generation_tokens_total{engine="0"} 12.0',
            'vllm:prompt_tokens_total{engine="0"} 30.0',
            'vllm:num_requests_running{engine="0"} 5.0',
            "process_cpu_seconds_total 99.0",
        ]
    )
    assert sum_of_counters(metrics) == 42.0


async def test_a_wedged_engine_is_stopped_and_another_one_started() -> None:
    client = FakeClient()
    pool = supervisor(client)
    task = asyncio.create_task(pool.run())
    await until(lambda: pool.health.status == "ready")

    client.engines[0].hangs = True
    await until(lambda: pool.health.status == "unhealthy")
    await until(lambda: len(client.engines) == 2 and pool.health.status == "ready")

    assert client.engines[0].stopped
    await stop(task)
    assert client.engines[1].stopped
    assert pool.health.status == "stopped"


async def test_a_dead_engine_is_replaced() -> None:
    client = FakeClient()
    pool = supervisor(client)
    task = asyncio.create_task(pool.run())
    await until(lambda: pool.health.status == "ready")

    client.engines[0].ended.set()
    await until(lambda: len(client.engines) == 2 and pool.health.status == "ready")

    assert client.engines[0].stopped, "its other processes may still be there"
    await stop(task)


async def test_an_engine_with_too_many_failed_adapters_is_replaced() -> None:
    client = FakeClient()
    full = True
    pool = supervisor(client, must_restart=lambda: full and len(client.engines) == 1)
    task = asyncio.create_task(pool.run())

    await until(lambda: len(client.engines) == 2 and pool.health.status == "ready")

    await stop(task)


async def test_a_first_engine_that_ends_while_starting_is_an_error_with_the_end_of_its_log() -> (
    None
):
    client = FakeClient()
    client.prepare = lambda engine: engine.ended.set()

    with pytest.raises(EngineStartError, match="the last line of the log"):
        await supervisor(client).run()

    assert client.engines[0].stopped


async def test_a_first_engine_that_never_serves_is_an_error() -> None:
    client = FakeClient()
    client.prepare = lambda engine: setattr(engine, "generates", False)

    with pytest.raises(EngineStartError, match="did not serve"):
        await supervisor(client).run()

    assert client.engines[0].stopped


async def test_an_engine_without_our_hooks_is_refused() -> None:
    client = FakeClient()
    client.prepare = lambda engine: setattr(engine, "hooks", None)

    with pytest.raises(EngineContractError):
        await supervisor(client).run()


async def test_a_later_engine_that_does_not_start_is_tried_again() -> None:
    client = FakeClient()
    pool = supervisor(client)
    client.prepare = lambda engine: engine.ended.set() if len(client.engines) == 2 else None
    task = asyncio.create_task(pool.run())
    await until(lambda: pool.health.status == "ready")

    client.engines[0].ended.set()
    await until(lambda: len(client.engines) == 3 and pool.health.status == "ready")

    await stop(task)
