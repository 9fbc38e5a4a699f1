"""Gives every request its id and context, and every response the headers that all share."""

from __future__ import annotations

import re
from random import Random
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.context import RequestContext, state_of
from gateway.clock import Clock

_ACCEPTED_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a client may choose; anything else is replaced, not refused."""

_SECURITY_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class RequestContextMiddleware:
    """Outermost: takes or makes `x-request-id`, and sends it back on every answer."""

    def __init__(self, app: ASGIApp, *, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._random = Random()  # noqa: S311 - ids are unique, and no secrets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext(
            request_id=_given_id(scope) or self._new_id(), started_s=self._clock.monotonic()
        )
        state_of(scope)["context"] = context
        own_headers = ((b"x-request-id", context.request_id.encode()), *_SECURITY_HEADERS)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *own_headers]
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _new_id(self) -> str:
        return f"req-{self._random.getrandbits(96):024x}"


def _given_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ACCEPTED_ID.fullmatch(value):
            return str(value, "ascii")
    return None
