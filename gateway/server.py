"""Runs the application under uvicorn, with the bounds that uvicorn leaves open.

uvicorn waits for ever for the head of a request, takes a head of any size, and answers broken
HTTP in plain text; a client that stops reading keeps its socket until the system gives up.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import msgspec
import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.api.problems import error_envelope
from gateway.app import create_app
from gateway.errors import (
    ConfigurationError,
    GatewayError,
    InvalidRequestError,
    OverloadedError,
)
from gateway.routing.engine_client import check_socket_path
from gateway.services import open_services
from gateway.settings import GatewaySettings
from gateway.telemetry.logging import configure_logging

_log = structlog.get_logger(__name__)

MAX_HEAD_BYTES: Final = 32 * 1024
"""Four times what common servers take; a key and a few headers need less than one KiB."""

_KEEP_ALIVE_S: Final = 75  # nginx' default, so that a proxy in front closes first
_BACKLOG: Final = 2048


def run(
    settings: GatewaySettings,
    *,
    host: str | None = None,
    port: int | None = None,
    uds: Path | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then let what is running end within `drain_timeout_s`.

    Raises what opening the services raises, and ConfigurationError when the address cannot be
    listened on.
    """
    configure_logging(settings.log_level)
    os.umask(0o077)  # what is stored is for this user alone, whatever the folder's own mode
    if uds is not None:
        listener = listen_unix(uds)
    else:
        listener = listen(
            settings.host if host is None else host,
            settings.port if port is None else port,
            send_timeout_s=settings.send_timeout_s,
        )
    with listener:
        uvloop.run(_serve(settings, listener))


async def _serve(settings: GatewaySettings, listener: socket.socket) -> None:
    # Opened out here, so that what does not start is an error of ours and not a log line of
    # uvicorn's; closed after the last request has ended.
    async with open_services(settings) as services:
        server = create_server(create_app(lambda: nullcontext(services), settings), settings)
        for caught in (signal.SIGINT, signal.SIGTERM):
            # uvicorn takes these over, and raises them again at its end: then they have done
            # their work, and the services must still be closed.
            signal.signal(caught, lambda *_: None)
        _log.info("listening", address=str(listener.getsockname()))
        await server.serve(sockets=[listener])


def create_server(app: ASGIApp, settings: GatewaySettings) -> uvicorn.Server:
    """Return a server for `app`, for sockets that listen already."""
    config = uvicorn.Config(
        app,
        http=_bounded_protocol(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
    )
    return uvicorn.Server(config)


def listen(host: str, port: int, *, send_timeout_s: float) -> socket.socket:
    """Return a listening TCP socket; raises ConfigurationError when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit both: small frames go out at once, and what a client does
        # not take within the send timeout ends its connection, buffers and all.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.platform == "linux":
            timeout_ms = int(send_timeout_s * 1000)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def listen_unix(path: Path) -> socket.socket:
    """Return a listening Unix socket that only its owner can reach, in place of a dead one."""
    name = check_socket_path(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and not _someone_listens(name):
            path.unlink()
        listener.bind(name)
        path.chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen on {path}: {error.strerror}") from error
    return listener


def _someone_listens(name: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(name) == 0


def _bounded_protocol(settings: GatewaySettings) -> type[HttpToolsProtocol]:
    """Return the protocol class for these settings; uvicorn makes one for each connection."""

    class ConfiguredProtocol(BoundedProtocol):
        head_timeout_s = settings.header_timeout_s
        max_connections = settings.max_connections

    return ConfiguredProtocol


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with bounds on the head of a request, and on connections."""

    head_timeout_s: float
    max_connections: int

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request, or refuse one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse("503 Service Unavailable", OverloadedError("Too many connections."))
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of a head."""
        self._head_bytes = 0
        self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count the head."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the head."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._stop_waiting()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, in the same shape as every other error."""
        self._refuse("400 Bad Request", InvalidRequestError(msg, code="invalid_http"))

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head is too large")  # the parser stops, and answers 400

    def _await_head(self) -> None:
        self._stop_waiting()
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: str, error: GatewayError) -> None:
        body = msgspec.json.encode(error_envelope(error))
        head = (
            f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
