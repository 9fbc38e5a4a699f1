"""A client that stops reading is given up after a while, and what it held with it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.routing.disconnect import ClientGoneError


class SendTimeoutMiddleware:
    """Bounds the wait for each message to be taken; raises ClientGoneError in the sender.

    That error ends here, whoever raised it: nobody is left to answer, and returning without the
    last byte makes the server close the connection.
    """

    def __init__(self, app: ASGIApp, *, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def bounded_send(message: Message) -> None:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await send(message)
            except TimeoutError:
                raise ClientGoneError from None

        with suppress(ClientGoneError):
            await self._app(scope, receive, bounded_send)
