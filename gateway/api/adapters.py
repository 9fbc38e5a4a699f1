"""A tenant's adapters: upload, look at, activate, revoke, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive

from adapter_store.tssp.format import PACKAGE_MEDIA_TYPE
from gateway.adapters.models import Adapter
from gateway.api.context import State
from gateway.api.requests import (
    Label,
    json_response,
    read_optional_json,
    require_media_type,
)
from gateway.routing.disconnect import ClientGoneError
from gateway.tenancy.scopes import Scope

UPLOAD_PATH: Final = "/v1/adapters"
"""The one route whose body may be as large as a package."""


class ActivateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`expected_generation`: move the alias only if it has not moved since."""

    expected_generation: Annotated[int, msgspec.Meta(ge=0)] | None = None


class RevokeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why, in a few words."""

    reason: Label = ""


async def upload(request: Request[State]) -> Response:
    """`POST /v1/adapters`: a TSSP package, verified while it streams in."""
    caller = request.state["context"].caller
    caller.require_tenant(Scope.ADAPTERS_WRITE)
    require_media_type(request.scope, PACKAGE_MEDIA_TYPE)
    adapters = request.state["services"].adapters
    adapter = await adapters.upload(caller, _chunks(request.receive))
    return json_response(adapter_json(adapter), status=201)


async def list_adapters(request: Request[State]) -> Response:
    """`GET /v1/adapters`: every version that is not deleted."""
    caller = request.state["context"].caller
    adapters = await request.state["services"].adapters.list(caller)
    return json_response({"object": "list", "data": [adapter_json(each) for each in adapters]})


async def get(request: Request[State]) -> Response:
    """`GET /v1/adapters/{name}[@version]`, or by digest."""
    caller = request.state["context"].caller
    adapters = request.state["services"].adapters
    return json_response(adapter_json(await adapters.get(caller, _reference(request))))


async def activate(request: Request[State]) -> Response:
    """`POST /v1/adapters/{ref}/activate`: check the weights, then serve them under the name."""
    body = await read_optional_json(request, ActivateBody)
    adapter = await request.state["services"].adapters.activate(
        request.state["context"].caller,
        _reference(request),
        expected_generation=body.expected_generation,
    )
    return json_response(adapter_json(adapter))


async def retire(request: Request[State]) -> Response:
    """`POST /v1/adapters/{ref}/retire`: out of service, and it may come back."""
    caller = request.state["context"].caller
    adapters = request.state["services"].adapters
    return json_response(adapter_json(await adapters.retire(caller, _reference(request))))


async def revoke(request: Request[State]) -> Response:
    """`POST /v1/adapters/{ref}/revoke`: out of service for good."""
    body = await read_optional_json(request, RevokeBody)
    adapter = await request.state["services"].adapters.revoke(
        request.state["context"].caller, _reference(request), reason=body.reason
    )
    return json_response(adapter_json(adapter))


async def delete(request: Request[State]) -> Response:
    """`DELETE /v1/adapters/{ref}`: shred it."""
    caller = request.state["context"].caller
    adapters = request.state["services"].adapters
    return json_response(adapter_json(await adapters.delete(caller, _reference(request))))


async def ingest_key(request: Request[State]) -> Response:
    """`GET /v1/adapters/ingest-key`: the key to which the tenant's publishers seal packages."""
    tenant = request.state["context"].caller.require_tenant(Scope.ADAPTERS_READ)
    return json_response(await request.state["services"].pool.ingest_key(tenant))


async def base_model(request: Request[State]) -> Response:
    """`GET /v1/base-model`: what adapters must have been trained for."""
    request.state["context"].caller.require(Scope.ADAPTERS_READ)
    return json_response(await request.state["services"].base_model.current())


routes = [
    Route("/v1/base-model", base_model, methods=["GET"]),
    Route(UPLOAD_PATH, upload, methods=["POST"]),
    Route(UPLOAD_PATH, list_adapters, methods=["GET"]),
    Route("/v1/adapters/ingest-key", ingest_key, methods=["GET"]),
    Route("/v1/adapters/{reference}/activate", activate, methods=["POST"]),
    Route("/v1/adapters/{reference}/retire", retire, methods=["POST"]),
    Route("/v1/adapters/{reference}/revoke", revoke, methods=["POST"]),
    Route("/v1/adapters/{reference}", get, methods=["GET"]),
    Route("/v1/adapters/{reference}", delete, methods=["DELETE"]),
]


def adapter_json(adapter: Adapter) -> dict[str, Any]:
    """Return an adapter as clients see it: nothing of engines, stores or keys."""
    return {
        "object": "adapter",
        "name": adapter.name,
        "version": adapter.version,
        "digest": adapter.digest,
        "state": adapter.state,
        "served": adapter.served,
        "generation": adapter.generation,
        "reason": adapter.reason,
        "size_bytes": adapter.size_bytes,
        "base_model": adapter.base_model,
        "description": adapter.description,
        "publisher_key_id": adapter.publisher_key_id,
        "created_at": adapter.created_at,
        "activated_at": adapter.activated_at,
    }


def _reference(request: Request[State]) -> str:
    reference: str = request.path_params["reference"]
    return reference


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the body as it comes; raises ClientGoneError if the client hangs up before its end."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        more = message.get("more_body", False)
        if chunk := message.get("body", b""):
            yield chunk
