"""The gateway as one ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import adapters, admin, health, openai
from gateway.clock import Clock, SystemClock
from gateway.middleware.authentication import AuthenticationMiddleware
from gateway.middleware.body import BodyMiddleware
from gateway.middleware.errors import ErrorBoundaryMiddleware
from gateway.middleware.observe import ObserveMiddleware
from gateway.middleware.request_context import RequestContextMiddleware
from gateway.middleware.send_timeout import SendTimeoutMiddleware
from gateway.services import Services
from gateway.settings import GatewaySettings

OpenServices = Callable[[], AbstractAsyncContextManager[Services]]


def create_app(
    open_services: OpenServices, settings: GatewaySettings, clock: Clock | None = None
) -> Starlette:
    """Return the application; it opens its services when it starts and closes them at its end."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Services]]:
        async with open_services() as services:
            yield {"services": services}

    return Starlette(
        routes=[*openai.routes, *adapters.routes, *admin.routes, *health.routes],
        middleware=_middleware(settings, clock or SystemClock()),
        exception_handlers={HTTPException: _pass_on},
        lifespan=lifespan,
    )


def _middleware(settings: GatewaySettings, clock: Clock) -> list[Middleware]:
    """Outermost first."""
    return [
        Middleware(RequestContextMiddleware, clock=clock),
        Middleware(ObserveMiddleware, clock=clock),
        Middleware(SendTimeoutMiddleware, timeout_s=settings.send_timeout_s),
        Middleware(ErrorBoundaryMiddleware),
        Middleware(AuthenticationMiddleware),
        Middleware(
            BodyMiddleware,
            max_bytes=settings.max_request_bytes,
            limits={adapters.UPLOAD_PATH: settings.max_package_bytes},
            timeout_s=settings.body_timeout_s,
        ),
    ]


async def _pass_on(_: Request, error: Exception) -> Response:
    """Let the router's own errors reach the boundary, where all others arrive."""
    raise error
