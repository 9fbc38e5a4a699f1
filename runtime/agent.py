"""The pool's composition root: the only process that holds keys, and the parent of the engine."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn

from adapter_store.base_model import read_base_model
from adapter_store.keys.keyring import load_pool_keys
from adapter_store.keys.local import LocalKeyProvider
from adapter_store.loading import PackageLoader
from adapter_store.objects.store import open_object_store
from adapter_store.tssp.format import Limits
from runtime.broker.failures import FailedNames
from runtime.broker.memory import AdapterMemory
from runtime.broker.server import Broker
from runtime.control_api import ControlServices, create_control_app
from runtime.engine_client import AgentEngineClient
from runtime.engine_process import EngineProcess
from runtime.errors import PoolConfigurationError
from runtime.processes import forbid_core_dumps
from runtime.settings import PoolSettings
from runtime.sockets import checked_socket_path, listen, remove_stale_socket
from runtime.supervisor import Supervisor

LOCK_FILE = "pool.lock"
CONTROL_BACKLOG = 128
EVICT_TIMEOUT_S = 30.0
"""Removal waits for the engine's current step."""


@dataclass(frozen=True, slots=True)
class PoolServices:
    """Everything of a running pool; built once, in `open_pool`."""

    supervisor: Supervisor
    control: ControlServices
    memory: AdapterMemory


async def run_pool(settings: PoolSettings, environ: Mapping[str, str]) -> None:
    """Run a pool until SIGINT or SIGTERM; raises PoolError or AdapterStoreError if it cannot.

    Nothing of it is left when this returns: no process, no socket, no decrypted adapter.
    """
    forbid_core_dumps()
    os.umask(0o077)  # the object store's files get what it leaves
    async with open_pool(settings, environ) as services:
        with _stop_signals() as stopped:
            await _first_to_end(
                services.supervisor.run(),
                _serve_control(settings, services.control),
                _expire_now_and_then(services.memory, settings.adapter_memory_ttl_s),
                stopped.wait(),
            )


@asynccontextmanager
async def open_pool(
    settings: PoolSettings, environ: Mapping[str, str]
) -> AsyncIterator[PoolServices]:
    """Build a pool's parts in the order in which they need each other."""
    _make_private(settings.pool_dir)
    for path in (settings.engine_socket, settings.control_socket, settings.broker_socket):
        checked_socket_path(path)
    keyring = load_pool_keys(settings.keyring)
    keys = LocalKeyProvider(keyring)
    base_model = await asyncio.to_thread(read_base_model, settings.model_dir)
    loader = PackageLoader(
        open_object_store(settings.object_store_url),
        keys,
        activation_key=keyring.activation_public_key,
        base_model=base_model,
        limits=Limits(max_rank=settings.engine.max_lora_rank),
        now=lambda: datetime.now(UTC),
    )
    failed_names = FailedNames()
    memory = AdapterMemory(
        loader.load, max_bytes=settings.adapter_memory_bytes, ttl_s=settings.adapter_memory_ttl_s
    )
    broker = Broker(
        settings.broker_socket, memory, failed_names, idle_timeout_s=settings.broker_timeout_s
    )
    client = AgentEngineClient(settings.engine_socket, timeout_s=EVICT_TIMEOUT_S)
    with _only_pool_in(settings.pool_dir), broker:
        async with client:
            supervisor = Supervisor(
                start=lambda: EngineProcess.start(settings, environ),
                client=client,
                model=settings.served_model_name,
                options=settings.liveness,
                must_restart=lambda: failed_names.full,
                before_start=failed_names.clear,
            )
            control = ControlServices(
                served_model_name=settings.served_model_name,
                fingerprint=base_model.fingerprint,
                max_lora_rank=settings.engine.max_lora_rank,
                keys=keys,
                admission=loader,
                memory=memory,
                engine=client,
                pool=supervisor,
            )
            yield PoolServices(supervisor, control, memory)


async def _serve_control(settings: PoolSettings, services: ControlServices) -> None:
    listener = listen(settings.control_socket, backlog=CONTROL_BACKLOG)
    config = uvicorn.Config(
        create_control_app(services), log_config=None, access_log=False, lifespan="off"
    )
    try:
        with listener:
            await _QuietServer(config).serve(sockets=[listener])
    finally:
        remove_stale_socket(settings.control_socket)


class _QuietServer(uvicorn.Server):
    """A server that leaves the signals to the pool."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _expire_now_and_then(memory: AdapterMemory, ttl_s: float) -> None:
    while True:
        await asyncio.sleep(ttl_s / 10)
        memory.expire()


async def _first_to_end(*jobs: Coroutine[Any, Any, Any]) -> None:
    """Run the jobs until one of them ends; cancel the others, and raise what went wrong."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


@contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextmanager
def _only_pool_in(pool_dir: Path) -> Iterator[None]:
    """Hold the directory's lock, which the kernel gives back however this process ends."""
    descriptor = os.open(pool_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PoolConfigurationError(
                f"another pool is running in {pool_dir}; stop it or choose another --pool-dir"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):
        directory.chmod(0o700)
    status = directory.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PoolConfigurationError(
            f"expected {directory} to be yours alone; try: chmod 700 {directory}"
        )
