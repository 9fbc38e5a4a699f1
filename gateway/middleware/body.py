"""Bounds every request body: in bytes as they come, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import (
    InvalidRequestError,
    PayloadTooLargeError,
    RequestTimeoutError,
    UnsupportedMediaTypeError,
)
from gateway.routing.disconnect import ClientGoneError

MIN_BODY_BYTES_PER_S: Final = 64 * 1024
"""A body gets one more second for each of these: 2 GiB may take nine hours, a trickle may not."""

_MAX_LENGTH_DIGITS: Final = 19  # of 2^63
_LINGER_BYTES: Final = 1024 * 1024
_LINGER_S: Final = 1.0


class BodyMiddleware:
    """Counts and times the body while the application reads it.

    `limits` are the routes with a limit of their own, by path. A body may take `timeout_s` and
    what its size allows beyond. Raises PayloadTooLargeError, RequestTimeoutError and
    UnsupportedMediaTypeError in the reader.
    """

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, limits: Mapping[str, int], timeout_s: float
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._limits = limits
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._limits.get(scope["path"], self._max_bytes)
        body = _Body(receive, max_bytes, self._timeout_s)
        try:
            _check_head(scope, max_bytes)
            await self._app(scope, body.receive, send)
        except PayloadTooLargeError:
            await body.linger()
            raise


class _Body:
    """One body on its way in."""

    def __init__(self, receive: Receive, max_bytes: int, timeout_s: float) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        self._count = 0
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()  # the wait for a disconnect, which has no limit
        allowance_s = self._count / MIN_BODY_BYTES_PER_S
        try:
            async with asyncio.timeout_at(self._deadline + allowance_s):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeoutError("the request body came too slowly") from None
        if message["type"] == "http.request":
            self._count += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._count > self._max_bytes:
                raise _too_large(self._max_bytes)
        return message

    async def linger(self) -> None:
        """Take in a little more, so that a client that is still sending gets to read the answer."""
        taken = 0
        try:
            async with asyncio.timeout(_LINGER_S):
                while not self._complete and taken < _LINGER_BYTES:
                    message = await self._receive()
                    taken += len(message.get("body", b""))
                    self._complete = not message.get("more_body", False)
        except TimeoutError:
            return


async def read_body(receive: Receive) -> bytes:
    """Return the whole body; raises ClientGoneError if the client hangs up before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _check_head(scope: Scope, max_bytes: int) -> None:
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            # A few bytes of gzip can be gigabytes of JSON.
            raise UnsupportedMediaTypeError("expected a body without Content-Encoding")
        if name == b"content-length":
            if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
                raise InvalidRequestError("expected a number as Content-Length")
            if int(value) > max_bytes:
                raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"expected a request body of at most {max_bytes} bytes")
