"""The OpenAI routes: chat and text completions, and the models that the caller may name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from adapter_store.types import TenantId
from gateway.api.context import State, state_of
from gateway.api.openai_types import GenerationRequest
from gateway.api.requests import json_response, require_json
from gateway.middleware.body import read_body
from gateway.routing.proxy import Call
from gateway.services import Services
from gateway.tenancy.scopes import Scope as Permission

_OWNER: Final = "tensafe"


class ChatCompletions:
    """`POST /v1/chat/completions`, as ASGI: the hot path makes no Request and no Response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        async with _refusals_recorded(scope) as services:
            request = services.decoder.chat(await _read(scope, receive))
        await _generate("chat", "/v1/chat/completions", request, scope, receive, send)


class Completions:
    """`POST /v1/completions`, likewise."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        async with _refusals_recorded(scope) as services:
            request = services.decoder.completion(await _read(scope, receive))
        await _generate("completions", "/v1/completions", request, scope, receive, send)


async def list_models(request: Request[State]) -> Response:
    """`GET /v1/models`: the base model and the tenant's own adapters."""
    services, tenant = _tenant(request)
    base = await services.base_model.current()
    served = await services.adapters.served(tenant)
    adapters = [
        _model(adapter.alias, int(adapter.created_at.timestamp()), owner=tenant, parent=base.id)
        for adapter in served
    ]
    return json_response({"object": "list", "data": [_model(base.id, 0), *adapters]})


async def get_model(request: Request[State]) -> Response:
    """`GET /v1/models/{id}`, by any name that a request may use."""
    services, tenant = _tenant(request)
    target = await services.targets.resolve(tenant, request.path_params["model"])
    if target.adapter is None:
        return json_response(_model(target.alias, 0))
    base = await services.base_model.current()
    created = int(target.adapter.created_at.timestamp())
    return json_response(_model(target.alias, created, owner=tenant, parent=base.id))


routes = [
    Route("/v1/chat/completions", ChatCompletions(), methods=["POST"]),
    Route("/v1/completions", Completions(), methods=["POST"]),
    Route("/v1/models", list_models, methods=["GET"]),
    Route("/v1/models/{model:path}", get_model, methods=["GET"]),
]


@asynccontextmanager
async def _refusals_recorded(scope: Scope) -> AsyncIterator[Services]:
    """Give the services to a caller that may ask for inference, and record what it is refused."""
    state = state_of(scope)
    tenant = state["context"].caller.require_tenant(Permission.INFERENCE)
    async with state["services"].recorder.refusals(state["context"], tenant):
        yield state["services"]


async def _read(scope: Scope, receive: Receive) -> bytes:
    require_json(scope)
    return await read_body(receive)


async def _generate(
    endpoint: str,
    path: str,
    request: GenerationRequest,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    state = state_of(scope)
    context = state["context"]
    call = Call(
        endpoint=endpoint,
        path=path,
        tenant=context.caller.require_tenant(Permission.INFERENCE),
        request=request,
        context=context,
    )
    await state["services"].proxy.serve(call, receive, send)


def _tenant(request: Request[State]) -> tuple[Services, TenantId]:
    caller = request.state["context"].caller
    return request.state["services"], caller.require_tenant(Permission.INFERENCE)


def _model(name: str, created: int, *, owner: str = _OWNER, parent: str | None = None) -> Any:
    model = {"id": name, "object": "model", "created": created, "owned_by": owner}
    return model if parent is None else {**model, "parent": parent}
