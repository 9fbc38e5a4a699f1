"""A real uvicorn in a thread of its own, on a Unix socket or a port that the system chooses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

START_TIMEOUT_S = 20.0


@contextmanager
def served_on_socket(app: ASGIApp, path: Path) -> Iterator[None]:
    """Serve `app` on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with _served(app, listener, lifespan="off"):
            yield


@contextmanager
def served_on_port(app: ASGIApp) -> Iterator[int]:
    """Serve `app` on a loopback port, and give its number."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with _served(app, listener, lifespan="on"):
            yield listener.getsockname()[1]


@contextmanager
def _served(app: ASGIApp, listener: socket.socket, *, lifespan: str) -> Iterator[None]:
    config = uvicorn.Config(
        app,
        lifespan=lifespan,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        ws="none",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        _wait_until_started(server, thread)
        yield
    finally:
        server.should_exit = True
        thread.join(START_TIMEOUT_S)
        assert not thread.is_alive(), "the server did not stop"


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    ticks = int(START_TIMEOUT_S / 0.01)
    for _ in range(ticks):
        if server.started:
            return
        assert thread.is_alive(), "the server died while starting"
        thread.join(0.01)
    raise AssertionError("the server did not start")
