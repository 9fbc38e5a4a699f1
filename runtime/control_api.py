"""The pool's control API: admit, evict, and what publishers and the gateway need to know."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adapter_store.errors import AdapterStoreError, InvalidNameError
from adapter_store.keys.provider import KeyProvider
from adapter_store.types import Digest, EngineName, TenantId, parse_digest, parse_tenant_id
from runtime.broker.memory import AdapterMemory
from runtime.broker.refusals import is_temporary
from runtime.engine_client import EngineState
from runtime.errors import EngineUnavailableError, PoolError
from runtime.supervisor import Health

MAX_BODY_BYTES = 4096
"""A tenant, a digest and an epoch; nothing here is larger."""


class Admission(Protocol):
    """The part of the package loader that checks a package for the first time."""

    def admit(self, tenant: TenantId, digest: Digest) -> Any:
        """Return the report on the adapter; raises AdapterStoreError."""
        ...


class ResidentAdapters(Protocol):
    """The engine, as far as eviction goes."""

    async def evict(self, name: EngineName) -> bool: ...


class Pool(Protocol):
    """The supervisor, as far as anybody may ask it."""

    @property
    def health(self) -> Health: ...

    @property
    def state(self) -> EngineState | None: ...


@dataclass(frozen=True, slots=True)
class ControlServices:
    """What the control API stands on."""

    served_model_name: str
    fingerprint: str
    max_lora_rank: int
    keys: KeyProvider
    admission: Admission
    memory: AdapterMemory
    engine: ResidentAdapters
    pool: Pool


class InvalidControlRequestError(PoolError):
    """The body or path of a control request is malformed."""

    code = "invalid_request"


class _Admit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tenant: str
    digest: str


class _Evict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    engine_name: str


T = TypeVar("T")
Handler = Callable[[ControlServices, Request], Awaitable[Response]]


def create_control_app(services: ControlServices) -> Starlette:
    """Return the ASGI application; it is meant for a private Unix socket only."""
    prefix = "/control/v1"
    return Starlette(
        routes=[
            _route(f"{prefix}/health", _health, services),
            _route(f"{prefix}/base-model", _base_model, services),
            _route(f"{prefix}/ingest-keys/{{tenant}}", _ingest_key, services),
            _route(f"{prefix}/adapters/admit", _admit, services, method="POST"),
            _route(f"{prefix}/adapters/evict", _evict, services, method="POST"),
        ],
        exception_handlers={
            InvalidControlRequestError: _problem(400),
            InvalidNameError: _problem(400),
            AdapterStoreError: _store_problem,
            EngineUnavailableError: _problem(503),
            404: _unknown_route,
            405: _unknown_route,
        },
    )


async def _health(services: ControlServices, _request: Request) -> Response:
    health = services.pool.health
    if health.status == "ready":
        return _json({"status": "ready"})
    return _json({"status": health.status, "reason": health.reason}, status=503)


async def _base_model(services: ControlServices, _request: Request) -> Response:
    state = services.pool.state
    if state is None:
        raise EngineUnavailableError("the engine has not come up yet")
    return _json(
        {
            "id": services.served_model_name,
            "fingerprint": services.fingerprint,
            "max_lora_rank": services.max_lora_rank,
            "max_model_len": state.max_model_len,
        }
    )


async def _ingest_key(services: ControlServices, request: Request) -> Response:
    tenant = parse_tenant_id(request.path_params["tenant"])
    return _json(await run_in_threadpool(services.keys.ingest_public_key, tenant))


async def _admit(services: ControlServices, request: Request) -> Response:
    body = await _body(request, _Admit)
    tenant, digest = parse_tenant_id(body.tenant), parse_digest(body.digest)
    report = await run_in_threadpool(services.admission.admit, tenant, digest)
    return _json({"report": report})


async def _evict(services: ControlServices, request: Request) -> Response:
    name = EngineName.parse((await _body(request, _Evict)).engine_name)
    # The broker's copy goes first and last: a load that was under way in between had it back.
    await run_in_threadpool(services.memory.evict, name)
    # An engine that has not come up yet, or is being started again, holds no adapter.
    resident = services.pool.health.status in {"ready", "unhealthy"}
    if resident:
        resident = await services.engine.evict(name)
    await run_in_threadpool(services.memory.evict, name)
    return _json({"resident": resident})


def _route(path: str, handler: Handler, services: ControlServices, *, method: str = "GET") -> Route:
    async def endpoint(request: Request) -> Response:
        return await handler(services, request)

    return Route(path, endpoint, methods=[method])


async def _body(request: Request, type_: type[T]) -> T:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise InvalidControlRequestError(f"expected a body of at most {MAX_BODY_BYTES} bytes")
    try:
        return msgspec.json.decode(bytes(body), type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidControlRequestError(f"malformed body: {error}") from None


def _problem(status: int) -> Callable[[Request, Any], Response]:
    def respond(_request: Request, error: Any) -> Response:
        return _error(status, error.code, str(error))

    return respond


def _store_problem(_request: Request, error: Any) -> Response:
    return _error(503 if is_temporary(error) else 422, error.code, str(error))


def _unknown_route(_request: Request, error: Any) -> Response:
    return _error(error.status_code, "unknown_route", "there is no such control route")


def _error(status: int, code: str, message: str) -> Response:
    return _json({"error": {"code": code, "message": message}}, status=status)


def _json(content: Any, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
