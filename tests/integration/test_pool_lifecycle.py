"""A real pool that is killed, wedged and started again; every part of it, at any time."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from runtime.engine_process import scratch_directory
from tests.fakes.pool_process import SERVED, HomeWorld, PoolProcess, running_pool, wait_for
from tests.fakes.tiny_llama import make_model

pytestmark = [pytest.mark.engine, pytest.mark.slow]

OPTIONS = (
    "--dtype=float32",
    "--max-model-len=512",
    "--max-loras=2",
    "--max-cpu-loras=2",
    "--max-lora-rank=8",
    "--kv-cache-gib=0.25",
    "--probe-interval-s=1",
    "--probe-timeout-s=4",
)
VANISH_S = 15.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def world(model: Path) -> Iterator[HomeWorld]:
    with tempfile.TemporaryDirectory(prefix="ts-test-") as home:
        yield HomeWorld.create(Path(home), model)


def generates(pool: PoolProcess) -> bool:
    body = {"model": SERVED, "prompt": [256, 65], "max_tokens": 2}
    with pool.engine as client:
        return client.post("/v1/completions", json=body).status_code == 200


def stream_a_long_answer(pool: PoolProcess, lines: list[str]) -> None:
    ask: dict[str, Any] = {
        "model": SERVED,
        "prompt": [256, 65],
        "max_tokens": 500,
        "ignore_eos": True,
        "stream": True,
    }
    with (
        contextlib.suppress(httpx2.HTTPError),
        pool.engine as client,
        client.stream("POST", "/v1/completions", json=ask) as answer,
    ):
        for line in answer.iter_lines():
            lines.append(line)  # noqa: PERF402  another thread looks at them as they come


def shared_memory(processes: list[psutil.Process]) -> set[Path]:
    """Return the files in shared memory that the processes have mapped."""
    maps = [mapping.path for process in processes for mapping in process.memory_maps()]
    return {Path(path) for path in maps if path.startswith("/dev/shm/")}


def left(files: set[Path]) -> set[Path]:
    return {path for path in files if path.exists()}


def gone(processes: list[psutil.Process]) -> bool:
    return not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_pool_survives_what_kills_its_parts_and_leaves_nothing_when_it_is_killed_itself(
    world: HomeWorld, model: Path
) -> None:
    """One long test, for each start of an engine takes half a minute.

    1. A worker that stops answering: `/health` of vLLM stays 200, yet the pool finds out,
       kills the engine and starts another. A stream that was under way is cut off, not ended.
    2. The agent killed with SIGKILL: all of its descendants end.
    3. Started again over the sockets that the dead one left: it serves, with no manual step.
    4. A second pool in the same folder is refused.
    5. SIGTERM: no process, no socket, no shared memory and no scratch file is left.
    """
    with running_pool(world, model, *OPTIONS) as pool:
        pool.wait_until_ready()
        assert generates(pool)

        # 1.
        first_engine = pool.tree()
        worker = pool.find("VLLM::Worker")  # before, for the answer takes less than this
        lines: list[str] = []
        client = threading.Thread(target=stream_a_long_answer, args=(pool, lines))
        client.start()
        wait_for(lambda: bool(lines), timeout_s=30, poll_s=0.01)
        worker.send_signal(signal.SIGSTOP)
        wait_for(lambda: pool.health()["status"] == "unhealthy", timeout_s=30)
        with pool.engine as http:
            assert http.get("/health").status_code == 200, "vLLM's own health sees nothing"
        client.join(60)
        assert not client.is_alive()
        assert "data: [DONE]" not in lines, "cut off, and seen to be"
        wait_for(lambda: gone(first_engine), timeout_s=60)
        pool.wait_until_ready()
        assert generates(pool)

        # 2.
        second_engine = pool.tree()
        second_memory = shared_memory(second_engine)
        assert len(second_engine) >= 3
        assert left(second_memory), "control: there is some"
        os.kill(pool.process.pid, signal.SIGKILL)
        pool.process.wait()
        wait_for(lambda: gone(second_engine), timeout_s=VANISH_S)
        wait_for(lambda: not left(second_memory), timeout_s=VANISH_S)
        assert (world.home / "pool" / "engine.sock").is_socket(), "control: a stale socket is left"

    # 3.
    with running_pool(world, model, *OPTIONS) as pool:
        pool.wait_until_ready()
        assert generates(pool)

        # 4.
        with running_pool(world, model, *OPTIONS) as second:
            assert second.process.wait(60) == 2
        assert "another pool is running" in second.log.read_text()
        assert generates(pool)

        # 5.
        third_engine = pool.tree()
        third_memory = shared_memory(third_engine)
        started = time.monotonic()
        assert pool.stop() == 0
        assert time.monotonic() - started < VANISH_S
        assert gone(third_engine)
    assert [path.name for path in (world.home / "pool").iterdir()] == ["pool.lock"]
    assert not scratch_directory(world.home / "pool").exists()
    wait_for(lambda: not left(third_memory), timeout_s=VANISH_S)


def test_an_engine_that_cannot_start_ends_the_pool_with_the_reason(
    world: HomeWorld, model: Path, tmp_path: Path
) -> None:
    broken = make_model(tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")

    with running_pool(world, broken, *OPTIONS) as pool:
        assert pool.process.wait(180) == 1

    log = pool.log.read_text()
    assert "the engine ended while starting" in log
    assert not (world.home / "pool" / "engine.sock").exists()
    assert not scratch_directory(world.home / "pool").exists()
