"""A real pool in a folder of its own: the command line, vLLM, keys, a store, and a publisher."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import psutil

from adapter_store.base_model import read_base_model
from adapter_store.keys.keyring import create_keyrings, load_gateway_keys, load_pool_keys
from adapter_store.keys.local import LocalKeyProvider
from adapter_store.objects.store import open_object_store
from adapter_store.types import Digest, EngineName, TenantId
from tests.fakes.packages import ACME, World

START_TIMEOUT_S = 240.0
COMMAND = [sys.executable, "-c", "from runtime.cli import app; app()"]
SERVED = "tiny"


@dataclass
class HomeWorld(World):
    """A deployment's home folder, with the publisher and the gateway played by the test."""

    home: Path = field(default_factory=Path)

    @classmethod
    def create(cls, home: Path, model: Path) -> HomeWorld:
        create_keyrings(home / "keys")
        return cls(
            home=home,
            objects=open_object_store(f"file://{home}/objects"),
            activation_key=load_gateway_keys(home / "keys" / "gateway.json").activation_key,
            base_model=read_base_model(model),
            time=datetime.now(UTC),
        )

    @property
    def keys(self) -> LocalKeyProvider:
        return LocalKeyProvider(load_pool_keys(self.home / "keys" / "pool.json"))


@dataclass
class PoolProcess:
    """A running `tensafe pool serve`."""

    process: subprocess.Popen[bytes]
    home: Path
    log: Path

    @property
    def engine(self) -> httpx2.Client:
        return _client(self.home / "pool" / "engine.sock")

    @property
    def control(self) -> httpx2.Client:
        return _client(self.home / "pool" / "control.sock")

    def async_engine(self) -> httpx2.AsyncClient:
        transport = httpx2.AsyncHTTPTransport(uds=str(self.home / "pool" / "engine.sock"))
        return httpx2.AsyncClient(transport=transport, base_url="http://engine", timeout=120)

    def health(self) -> dict[str, Any]:
        with self.control as client:
            return client.get("/control/v1/health").json()

    def tree(self) -> list[psutil.Process]:
        """Return every process below the agent."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def find(self, title: str) -> psutil.Process:
        return next(p for p in self.tree() if title in " ".join(p.cmdline()))

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the pool ended:\n{self.log.read_text()[-4000:]}")
            listening = _somebody_listens(self.home / "pool" / "control.sock")
            return listening and bool(self.health()["status"] == "ready")

        wait_for(ready, timeout_s=START_TIMEOUT_S)

    def admit(self, digest: Digest, tenant: TenantId = ACME) -> httpx2.Response:
        with self.control as client:
            return client.post(
                "/control/v1/adapters/admit", json={"tenant": tenant, "digest": digest}
            )

    def evict(self, name: EngineName) -> dict[str, Any]:
        with self.control as client:
            answer = client.post("/control/v1/adapters/evict", json={"engine_name": str(name)})
            return answer.json()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def running_pool(world: HomeWorld, model: Path, *options: str) -> Iterator[PoolProcess]:
    """Start a pool and stop it at the end, whatever happened to it."""
    log = world.home / "pool.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                *COMMAND,
                "serve",
                str(model),
                f"--home={world.home}",
                f"--served-model-name={SERVED}",
                *options,
            ],
            stdout=output,
            stderr=output,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    pool = PoolProcess(process, world.home, log)
    try:
        yield pool
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(condition: Callable[[], bool], *, timeout_s: float, poll_s: float = 0.2) -> None:
    """Return once `condition` holds; fails the test if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(poll_s)


def _somebody_listens(path: Path) -> bool:
    """The HTTP client would leave a socket open each time that nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def _client(socket_path: Path) -> httpx2.Client:
    return httpx2.Client(
        transport=httpx2.HTTPTransport(uds=str(socket_path)), base_url="http://pool", timeout=120
    )
