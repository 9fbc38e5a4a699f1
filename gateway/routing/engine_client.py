"""The forward path's only way out: one pooled session to the engine's Unix socket.

aiohttp, because this is the hot path and it measured several times faster than httpx; it stays
behind `EngineClient`, and its exceptions are translated here.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

import aiohttp

from gateway.errors import (
    ConfigurationError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)

_MAX_SOCKET_PATH_BYTES: Final = 107
"""`sun_path` of unix(7), less its final NUL."""

_KEEP_ALIVE_S: Final = 3.0
"""Below uvicorn's 5 s, so that it is seldom the engine that closes an idle connection first."""

_CONNECT_TIMEOUT_S: Final = 2.0
_END_TIMEOUT_S: Final = 0.05
_READ_BYTES: Final = 64 * 1024
_BYTES_IO_FROM: Final = 1024 * 1024
"""aiohttp warns about larger bodies that are given as plain bytes."""


class EngineAnswer(Protocol):
    """An answer whose head has arrived."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    async def read(self, max_bytes: int) -> bytes:
        """Return the whole body; raises UpstreamProtocolError beyond `max_bytes`."""
        ...

    async def next_chunk(self) -> bytes:
        """Return the next bytes of the body as they come, b"" at its end; raises UpstreamError."""
        ...

    async def finish(self) -> None:
        """Wait a moment for the end of a body that holds nothing more, to keep the connection."""
        ...


class EngineClient(Protocol):
    """Sends a request to the engine."""

    def post(self, path: str, body: bytes) -> AbstractAsyncContextManager[EngineAnswer]:
        """Send JSON and return the answer once its head is there.

        Leaving the context before the end of the body aborts the request at the engine. Raises
        UpstreamUnavailableError, UpstreamTimeoutError or UpstreamProtocolError.
        """
        ...


class UnixEngineClient:
    """EngineClient over a Unix socket. Made by `open_engine_client`."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncIterator[EngineAnswer]:
        """Send JSON to `path`; see EngineClient."""
        with _translated():
            response = await self._send(path, body)
        try:
            yield _Answer(response)
        finally:
            response.close()  # frees the connection after the whole body, aborts it before

    async def _send(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        try:
            return await self._post_once(path, body)
        except (aiohttp.ServerDisconnectedError, ConnectionResetError):
            # The engine closed an idle connection just as we took it: nothing was answered yet.
            return await self._post_once(path, body)

    async def _post_once(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        data = body if len(body) < _BYTES_IO_FROM else io.BytesIO(body)
        return await self._session.post(path, data=data, allow_redirects=False)


class _Answer:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    async def read(self, max_bytes: int) -> bytes:
        body = bytearray()
        while chunk := await self.next_chunk():
            body += chunk
            if len(body) > max_bytes:
                raise UpstreamProtocolError(f"an answer exceeds {max_bytes} bytes")
        return bytes(body)

    async def next_chunk(self) -> bytes:
        with _translated():
            return await self._response.content.readany()

    async def finish(self) -> None:
        with suppress(UpstreamError), _translated():
            async with asyncio.timeout(_END_TIMEOUT_S):
                await self._response.content.readany()


@contextmanager
def _translated() -> Iterator[None]:
    """Translate what aiohttp and the socket raise. Their texts name paths, so they stay here."""
    try:
        yield
    except (aiohttp.SocketTimeoutError, TimeoutError) as error:
        raise UpstreamTimeoutError("the engine went silent") from error
    except (aiohttp.ClientConnectionError, OSError) as error:
        raise UpstreamUnavailableError("the engine's connection broke or was refused") from error
    except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
        raise UpstreamProtocolError("the engine's answer was cut or is not HTTP") from error


def check_socket_path(path: Path) -> str:
    """Return `path` as text; raises ConfigurationError if the system cannot take it."""
    length = len(bytes(path))
    if length > _MAX_SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"the socket path has {length} bytes, and the system allows {_MAX_SOCKET_PATH_BYTES}: "
            f"choose a shorter home than {path.parent}"
        )
    return str(path)


@asynccontextmanager
async def open_engine_client(socket: Path, *, silence_s: float) -> AsyncIterator[UnixEngineClient]:
    """Open the session; `silence_s` bounds the wait for each next byte of an answer."""
    connector = aiohttp.UnixConnector(
        check_socket_path(socket), limit=0, keepalive_timeout=_KEEP_ALIVE_S
    )
    timeout = aiohttp.ClientTimeout(
        total=None, connect=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=silence_s
    )
    async with aiohttp.ClientSession(
        base_url="http://engine",
        connector=connector,
        timeout=timeout,
        headers={"content-type": "application/json"},
        skip_auto_headers=("user-agent", "accept-encoding", "accept"),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=_READ_BYTES,
    ) as session:
        yield UnixEngineClient(session)
