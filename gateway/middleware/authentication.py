"""Every route asks for a key, unless it is named here."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.context import state_of

PUBLIC_PATHS: Final = frozenset({"/health", "/readiness", "/metrics"})
"""For probes and scrapers: they say nothing about anybody."""

_SCHEME: Final = "bearer "


class AuthenticationMiddleware:
    """Puts the verified Principal into the request's context; raises AuthenticationError."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS:
            state = state_of(scope)
            bearer = _bearer(scope)
            state["context"].principal = await state["services"].authenticator.authenticate(bearer)
        await self._app(scope, receive, send)


def _bearer(scope: Scope) -> str | None:
    """Return the key in the one Authorization header; two of them are none."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        return None
    text = str(values[0], "latin-1")
    if not text.lower().startswith(_SCHEME):
        return None
    return text[len(_SCHEME) :].strip()
