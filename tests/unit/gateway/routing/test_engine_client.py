"""The way to the engine's socket, and how its failures are named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import (
    ConfigurationError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from gateway.routing.engine_client import check_socket_path, open_engine_client

pytestmark = pytest.mark.anyio

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK_HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


@asynccontextmanager
async def engine(path: Path, serve: Serve) -> AsyncIterator[None]:
    """Serve each connection with a function over its bytes."""

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(closing, path)
    async with server:
        yield


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(2)


async def test_a_body_arrives_and_the_answer_returns(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(OK_HEAD + b"ok")
        await writer.drain()

    path = tmp_path / "e.sock"
    async with (
        engine(path, serve),
        open_engine_client(path, silence_s=2) as client,
        client.post("/v1/x", b"{}") as answer,
    ):
        assert (answer.status, await answer.read(10)) == (200, b"ok")
    assert b"accept-encoding" not in seen[0].lower()
    assert b"user-agent" not in seen[0].lower()


async def test_an_idle_connection_that_was_closed_is_replaced_once(tmp_path: Path) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(OK_HEAD + b"ok")
        await writer.drain()
        if connections == 1:
            await read_request(reader)  # takes the second request, and hangs up

    path = tmp_path / "e.sock"
    async with engine(path, serve), open_engine_client(path, silence_s=2) as client:
        for _ in range(2):
            async with client.post("/v1/x", b"{}") as answer:
                assert await answer.read(10) == b"ok"
    assert connections == 2


async def test_nothing_is_sent_again_after_the_first_byte(tmp_path: Path) -> None:
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await read_request(reader)
        requests += 1
        writer.write(OK_HEAD + b"o")
        await writer.drain()

    path = tmp_path / "e.sock"
    async with (
        engine(path, serve),
        open_engine_client(path, silence_s=2) as client,
        client.post("/v1/x", b"{}") as answer,
    ):
        with pytest.raises(UpstreamProtocolError):
            await answer.read(10)
    assert requests == 1


async def test_nobody_at_the_socket_is_unavailable(tmp_path: Path) -> None:
    async with open_engine_client(tmp_path / "none.sock", silence_s=2) as client:
        with pytest.raises(UpstreamUnavailableError) as caught:
            async with client.post("/v1/x", b"{}"):
                pass
    assert "none.sock" not in str(caught.value)


async def test_silence_before_the_head_is_a_timeout(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    path = tmp_path / "e.sock"
    async with engine(path, serve), open_engine_client(path, silence_s=0.05) as client:
        with pytest.raises(UpstreamTimeoutError):
            async with client.post("/v1/x", b"{}"):
                pass


async def test_what_is_not_http_is_a_protocol_error(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await writer.drain()

    path = tmp_path / "e.sock"
    async with engine(path, serve), open_engine_client(path, silence_s=2) as client:
        with pytest.raises(UpstreamProtocolError):
            async with client.post("/v1/x", b"{}"):
                pass


async def test_an_answer_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK_HEAD + b"ok")
        await writer.drain()

    path = tmp_path / "e.sock"
    async with (
        engine(path, serve),
        open_engine_client(path, silence_s=2) as client,
        client.post("/v1/x", b"{}") as answer,
    ):
        with pytest.raises(UpstreamProtocolError):
            await answer.read(1)


def test_a_socket_path_that_the_system_cannot_take_says_what_to_do() -> None:
    check_socket_path(Path("/" + "a" * 106))
    with pytest.raises(ConfigurationError, match="choose a shorter home"):
        check_socket_path(Path("/" + "a" * 107))
