"""The server around the application: bounded heads and connections, and a graceful end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from adapter_store.errors import KeyringError
from gateway.errors import ConfigurationError
from gateway.server import MAX_HEAD_BYTES, create_server, listen, listen_unix, run
from gateway.settings import GatewaySettings

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers `ok`."""
    if scope["type"] == "lifespan":
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})
        return
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def serving(tmp_path: Path, **settings: Any) -> Iterator[tuple[str, int]]:
    configured = GatewaySettings(home=tmp_path, **settings)
    with listen("127.0.0.1", 0, send_timeout_s=1) as listener:
        server = create_server(application, configured)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()
        server.should_exit = True
        thread.join(5)


def exchange(address: tuple[str, int], request: bytes) -> bytes:
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(request)
        return read_to_end(connection)


def read_to_end(connection: socket.socket) -> bytes:
    answer = b""
    while True:
        try:
            chunk = connection.recv(65536)
        except ConnectionResetError:
            return answer
        if not chunk:
            return answer
        answer += chunk


def test_what_is_not_http_is_answered_in_json(tmp_path: Path) -> None:
    with serving(tmp_path) as address:
        answer = exchange(address, b"\x16\x03\x01 this is TLS\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "invalid_http"


@pytest.mark.parametrize("pieces", [1, 200])
def test_a_head_beyond_the_limit_is_refused(tmp_path: Path, pieces: int) -> None:
    size = 2 * MAX_HEAD_BYTES // pieces
    headers = b"".join(b"x-%d: %s\r\n" % (number, b"y" * size) for number in range(pieces))
    with serving(tmp_path) as address:
        answer = exchange(address, b"GET / HTTP/1.1\r\nhost: x\r\n" + headers + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_head_within_the_limit_is_taken(tmp_path: Path) -> None:
    filler = b"x-filler: " + b"y" * (MAX_HEAD_BYTES - 200) + b"\r\nconnection: close\r\n"
    with serving(tmp_path) as address:
        answer = exchange(address, b"GET / HTTP/1.1\r\nhost: x\r\n" + filler + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"server:" not in answer.lower()


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n"])
def test_a_head_that_does_not_come_closes_the_connection(tmp_path: Path, begun: bytes) -> None:
    with serving(tmp_path, header_timeout_s=0.3) as address:
        began = time.monotonic()
        assert exchange(address, begun) == b""
        assert 0.2 < time.monotonic() - began < 2


def test_a_head_that_stalls_on_a_used_connection_closes_it_too(tmp_path: Path) -> None:
    with (
        serving(tmp_path, header_timeout_s=0.3) as address,
        socket.create_connection(address, timeout=5) as connection,
    ):
        connection.sendall(REQUEST)
        assert connection.recv(4096).endswith(b"ok")
        time.sleep(0.5)  # idle between requests is no stalled head
        connection.sendall(REQUEST)
        assert connection.recv(4096).endswith(b"ok")
        connection.sendall(b"GET / HT")
        assert read_to_end(connection) == b""


def test_one_connection_too_many_is_told_so(tmp_path: Path) -> None:
    with serving(tmp_path, max_connections=2) as address:
        held = [socket.create_connection(address, timeout=5) for _ in range(2)]
        time.sleep(0.1)
        answer = exchange(address, REQUEST)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"overloaded"' in answer
        for connection in held:
            connection.sendall(REQUEST)
            assert connection.recv(4096).endswith(b"ok")
            connection.close()


def test_a_unix_socket_is_its_owners_and_replaces_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    listen_unix(path).close()  # leaves its file, as a killed process does
    with listen_unix(path):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(ConfigurationError, match="in use"):
            listen_unix(path)


def test_an_address_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0, send_timeout_s=1) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}: Address already in use"):
            listen("127.0.0.1", port, send_timeout_s=1)


def test_services_that_do_not_start_are_an_error_and_not_a_log_line(tmp_path: Path) -> None:
    with pytest.raises(KeyringError):
        run(GatewaySettings(home=tmp_path), port=0)


DRAINING = """
    import asyncio
    from pathlib import Path
    from gateway.server import create_server, listen
    from gateway.settings import GatewaySettings

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            print("closed", flush=True)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(30):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"end", "more_body": False})

    settings = GatewaySettings(home=Path("."), drain_timeout_s=%s)
    with listen("127.0.0.1", 0, send_timeout_s=5) as listener:
        print(listener.getsockname()[1], flush=True)
        create_server(application, settings).run(sockets=[listener])
"""


@pytest.mark.parametrize(("drain_s", "finishes"), [(20, True), (1, False)])
def test_sigterm_lets_streams_end_within_the_drain_timeout(
    tmp_path: Path, drain_s: int, finishes: bool
) -> None:
    code = textwrap.dedent(DRAINING % drain_s)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ) as process:
        assert process.stdout is not None
        address = ("127.0.0.1", int(process.stdout.readline()))
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(REQUEST)
            received = connection.recv(4096)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(address, timeout=1)
            received += read_to_end(connection)
        assert (b"end" in received) is finishes
        assert process.wait(10) in {0, -signal.SIGTERM}
        assert process.stdout.read().strip() == "closed"
