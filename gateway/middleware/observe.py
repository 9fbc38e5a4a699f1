"""One log event and one count for every answered request: routes and numbers, no content."""

from __future__ import annotations

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.context import state_of
from gateway.clock import Clock

_log = structlog.get_logger("gateway.access")

_UNMATCHED = "unmatched"


class ObserveMiddleware:
    """Writes the access log and the HTTP metrics, labelled by route and never by URL."""

    def __init__(self, app: ASGIApp, *, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0  # the client was gone before there was an answer
        sent_bytes = 0

        async def counting_send(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counting_send)
        finally:
            self._observe(scope, status, sent_bytes)

    def _observe(self, scope: Scope, status: int, sent_bytes: int) -> None:
        state = state_of(scope)
        services, context = state["services"], state["context"]
        route = _route_name(scope)
        services.metrics.http_requests.labels(route, str(status)).inc()
        if context.error_code is not None:
            services.metrics.rejections.labels(context.error_code).inc()
        principal = context.principal
        tenant = principal.tenant if principal else None
        _log.info(
            "request",
            request_id=context.request_id,
            method=scope["method"] if route != _UNMATCHED else None,
            route=route,
            status=status,
            duration_ms=round((self._clock.monotonic() - context.started_s) * 1000, 2),
            sent_bytes=sent_bytes,
            key_id=principal.key_id if principal else None,
            tenant=services.pseudonyms.of(tenant) if tenant else None,
            error=context.error_code,
            outcome=context.outcome,
        )


def _route_name(scope: Scope) -> str:
    """Return the name of the endpoint, of which there are as many as there are routes."""
    endpoint = scope.get("endpoint")
    if endpoint is None:
        return _UNMATCHED
    return str(getattr(endpoint, "__name__", type(endpoint).__name__))
