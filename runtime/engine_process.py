"""One run of vLLM as a child process: its arguments, its environment, its end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Self

from runtime import engine_main, plugin_names
from runtime.settings import EngineOptions, PoolSettings
from runtime.sockets import checked_socket_path, remove_stale_socket

GIB = 1 << 30
DEFAULT_CPU_KV_CACHE_GIB = 1.0
LOG_TAIL_LINES = 60
MAX_LOG_LINE_BYTES = 64 << 10
GRACE_S = 5.0
"""How long a killed tree may take to vanish; measured at 0.3 s."""


def engine_arguments(settings: PoolSettings) -> list[str]:
    """Return the command line of vLLM; it holds no secret, for anybody may read it."""
    options = settings.engine
    arguments = [
        f"--model={settings.model_dir}",
        f"--served-model-name={settings.served_model_name}",
        f"--uds={settings.engine_socket}",
        "--enable-lora",
        f"--max-loras={options.max_loras}",
        f"--max-cpu-loras={options.max_cpu_loras}",
        f"--max-lora-rank={options.max_lora_rank}",
        f"--dtype={options.dtype}",
        f"--seed={options.seed}",
        f"--max-num-seqs={options.max_num_seqs}",
        f"--max-num-queued-reqs={options.max_num_queued_reqs}",
        f"--tensor-parallel-size={options.tensor_parallel_size}",
        f"--pipeline-parallel-size={options.pipeline_parallel_size}",
        "--scheduling-policy=priority",  # the liveness probe goes first
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
        "--no-enable-log-requests",
        _switch("enable-prefix-caching", on=options.enable_prefix_caching),
        _switch("enable-chunked-prefill", on=options.enable_chunked_prefill),
    ]
    if options.max_model_len is not None:
        arguments.append(f"--max-model-len={options.max_model_len}")
    if options.max_num_batched_tokens is not None:
        arguments.append(f"--max-num-batched-tokens={options.max_num_batched_tokens}")
    return arguments + _memory_arguments(options)


def engine_environment(
    settings: PoolSettings, base: Mapping[str, str], *, scratch: Path
) -> dict[str, str]:
    """Return the environment of vLLM: offline, silent about its use, and with our plugins only."""
    options = settings.engine
    environment = {
        name: value for name, value in base.items() if not name.startswith(("VLLM_", "TENSAFE_"))
    }
    workers = options.tensor_parallel_size * options.pipeline_parallel_size
    if _is_cpu_build():
        # With LoRA a CPU engine compiles no model, but the first request that scores its prompt
        # would compile a kernel for 20 s, inside a step, and everybody would wait.
        environment["TORCHDYNAMO_DISABLE"] = "1"
        environment["VLLM_CPU_OMP_THREADS_BIND"] = cpu_shares(
            sorted(os.sched_getaffinity(0)), workers, reserved=options.reserved_cpus
        )
    return environment | {
        plugin_names.BROKER_SOCKET: str(settings.broker_socket),
        plugin_names.BROKER_TIMEOUT_S: str(settings.broker_timeout_s),
        plugin_names.CONFIRM_LOADS: "1" if workers > 1 else "0",
        engine_main.PARENT_ID: str(os.getpid()),
        "VLLM_PLUGINS": f"{plugin_names.GENERAL_PLUGIN},{plugin_names.ENDPOINT_PLUGIN}",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",  # without it vLLM calls no resolver
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # the hooks are written for the first runner
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TMPDIR": str(scratch),
        "PYTHONUNBUFFERED": "1",
    }


def scratch_directory(pool_dir: Path) -> Path:
    """Return where this pool's engine keeps its rendezvous files and message queues.

    The name is the same for each run, so that what a killed engine leaves is swept by the
    next one; and it is short, because vLLM puts sockets in it.
    """
    key = hashlib.sha256(os.fsencode(pool_dir.resolve())).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"tensafe-{os.geteuid()}-{key}"


@dataclass(slots=True)
class EngineProcess:
    """A started engine. `stop` ends every process of it, whatever state they are in."""

    process: asyncio.subprocess.Process
    settings: PoolSettings
    scratch: Path
    log_tail: deque[str]
    relay: asyncio.Task[None]

    @classmethod
    async def start(cls, settings: PoolSettings, environ: Mapping[str, str]) -> Self:
        """Start the engine; whether it comes up is seen by asking it."""
        remove_stale_socket(checked_socket_path(settings.engine_socket))
        scratch = scratch_directory(settings.pool_dir)
        sweep(scratch)
        scratch.mkdir(mode=0o700)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            engine_main.__name__,
            *engine_arguments(settings),
            env=engine_environment(settings, environ, scratch=scratch),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a group to kill as one, and no Ctrl-C from the terminal
            limit=MAX_LOG_LINE_BYTES,
        )
        tail: deque[str] = deque(maxlen=LOG_TAIL_LINES)
        relay = asyncio.create_task(_relay(process, tail))
        return cls(process, settings, scratch, tail, relay)

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    @property
    def log_end(self) -> str:
        """The last lines that the engine wrote."""
        return "\n".join(self.log_tail)

    async def wait(self) -> int:
        """Return the exit status of the first process once it has ended."""
        return await self.process.wait()

    async def stop(self) -> None:
        """Kill the whole tree and remove what it left.

        Only the first process is killed by us; the kernel then kills its children in turn.
        Python's resource trackers survive that for a moment, and unlink the shared memory of
        the dead. Whatever is left after the grace period is killed as a group.
        """
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()
        await self._group_vanishes()
        self.relay.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.relay
        remove_stale_socket(self.settings.engine_socket)
        sweep(self.scratch)

    async def _group_vanishes(self) -> None:
        deadline = asyncio.get_running_loop().time() + GRACE_S
        with contextlib.suppress(ProcessLookupError):
            while asyncio.get_running_loop().time() < deadline:
                os.killpg(self.process.pid, 0)
                await asyncio.sleep(0.05)
            os.killpg(self.process.pid, signal.SIGKILL)


def sweep(scratch: Path) -> None:
    """Remove the scratch directory of an engine that is no more."""
    if scratch.is_symlink():
        scratch.unlink()
    shutil.rmtree(scratch, ignore_errors=True)


def kv_cache_bytes(options: EngineOptions) -> int | None:
    """Return how much memory the KV cache gets, or None to leave it to vLLM."""
    kv_cache_gib = options.kv_cache_gib
    if kv_cache_gib is None and options.gpu_memory_utilization is None and _is_cpu_build():
        kv_cache_gib = DEFAULT_CPU_KV_CACHE_GIB  # vLLM would take 92 % of the machine's memory
    return None if kv_cache_gib is None else int(kv_cache_gib * GIB)


def cpu_shares(cpus: Sequence[int], workers: int, *, reserved: int) -> str:
    """Return the CPUs of each worker, as vLLM reads them; left to it, each wants a NUMA node.

    The last `reserved` go to nobody, as far as every worker still gets one. The threads of a
    worker wait for each other at every operation, spinning: one that has to share its CPU, with
    the gateway for example, holds up all of them (on two CPUs, 16 streams: 12 requests/s, not 85).
    """
    if len(cpus) < workers:
        return "nobind"
    cpus = cpus[: max(workers, len(cpus) - reserved)]
    bounds = [len(cpus) * number // workers for number in range(workers + 1)]
    shares = [cpus[start:end] for start, end in pairwise(bounds)]
    return "|".join(",".join(map(str, share)) for share in shares)


def _memory_arguments(options: EngineOptions) -> list[str]:
    arguments = []
    kv_cache = kv_cache_bytes(options)
    if kv_cache is not None:
        arguments.append(f"--kv-cache-memory-bytes={kv_cache}")
    if options.gpu_memory_utilization is not None:
        arguments.append(f"--gpu-memory-utilization={options.gpu_memory_utilization}")
    return arguments


def _is_cpu_build() -> bool:
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def _switch(name: str, *, on: bool) -> str:
    return f"--{name}" if on else f"--no-{name}"


async def _relay(process: asyncio.subprocess.Process, tail: deque[str]) -> None:
    """Pass the engine's log on to ours, and keep its end for an error message."""
    if process.stdout is None:
        return
    while chunk := await process.stdout.read(MAX_LOG_LINE_BYTES):
        sys.stderr.buffer.write(chunk)
        sys.stderr.flush()
        tail.extend(chunk.decode(errors="replace").splitlines())
