"""A real gateway on a port, before a scripted engine on a Unix socket."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog

from gateway.app import create_app
from gateway.settings import GatewaySettings
from gateway.telemetry.logging import configure_logging
from tests.fakes.engine import FakeEngine
from tests.fakes.server import served_on_port, served_on_socket
from tests.fakes.services import ACME_KEY, FakeDomain


@dataclass
class Stack:
    """A gateway, and what is around it."""

    port: int
    engine: FakeEngine
    domain: FakeDomain

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str | None = ACME_KEY) -> httpx2.Client:
        """Return a client with a key."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx2.Client(
            base_url=self.url, headers=headers, timeout=10, trust_env=False, verify=False
        )


@pytest.fixture(scope="session", autouse=True)
def log_lines() -> Iterator[StringIO]:
    """Everything that the gateway logs, as its command would write it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = StringIO()
    configure_logging("info", stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


StartStack = Callable[..., Stack]


@pytest.fixture(scope="module")
def start_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartStack]:
    """Start gateways with settings of their own."""
    with ExitStack() as cleanup:

        def start(**settings: Any) -> Stack:
            home = tmp_path_factory.mktemp("h")
            engine, domain = FakeEngine(), FakeDomain()
            socket: Path = home / "engine.sock"
            cleanup.enter_context(served_on_socket(engine, socket))
            configured = GatewaySettings(home=home, **settings)
            app = create_app(domain.open(configured, socket), configured)
            return Stack(cleanup.enter_context(served_on_port(app)), engine, domain)

        yield start


@pytest.fixture(scope="module")
def shared_stack(start_stack: StartStack) -> Stack:
    return start_stack(max_request_bytes=200_000, body_timeout_s=1.0, engine_silence_s=1.0)


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    """The module's gateway, with everything behind it as new."""
    shared_stack.engine.reset()
    domain, fresh = shared_stack.domain, FakeDomain()
    domain.audit.__dict__.update(fresh.audit.__dict__)
    domain.adapters.__dict__.update(fresh.adapters.__dict__)
    domain.pool.away = domain.database.away = False
    return shared_stack
