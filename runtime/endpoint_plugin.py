"""Two routes of ours in vLLM's API server: evict an adapter, and say which are in the engine."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import State
from vllm.engine.protocol import EngineClient

from adapter_store.errors import InvalidNameError
from adapter_store.types import EngineName
from runtime.lora_resolver import RESOLVER_NAME, forget_lock
from runtime.plugin_names import ENDPOINT_PLUGIN, EVICT_PATH, STATE_PATH


class TenSafeEndpoints:
    """The endpoint plugin; its routes answer only on the engine's own private socket."""

    name = ENDPOINT_PLUGIN
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes (called once by vLLM)."""
        app.add_api_route(EVICT_PATH, _evict, methods=["POST"], include_in_schema=False)
        app.add_api_route(STATE_PATH, _state, methods=["GET"], include_in_schema=False)

    async def init_state(
        self, engine_client: EngineClient | None, state: State, args: Namespace
    ) -> None:
        """Keep what the routes need (called once by vLLM)."""
        if engine_client is None:
            raise RuntimeError("expected an engine client, got a server without an engine")
        state.tensafe_engine_client = engine_client
        state.tensafe_max_model_len = engine_client.model_config.max_model_len
        state.tensafe_resolvers = [type(r).__name__ for r in _models(state).lora_resolvers]
        state.tensafe_max_lora_rank = args.max_lora_rank


async def _evict(request: Request) -> JSONResponse:
    """Forget `engine_name` in the API server and free its slot and weights in every worker."""
    name = await _engine_name(request)
    state = request.app.state
    models = _models(state)
    lock = models.lora_resolver_lock.get(name)
    if lock is not None:
        async with lock:  # a load under way ends first, or it would come back
            await _remove(state, name)
        forget_lock(models, name)
    return JSONResponse({"resident": name in models.lora_requests})


async def _state(request: Request) -> JSONResponse:
    """Say what the agent checks at start, and which adapters are known here."""
    state = request.app.state
    models = _models(state)
    return JSONResponse(
        {
            "hooks": RESOLVER_NAME if "TenSafeResolver" in state.tensafe_resolvers else None,
            "max_model_len": state.tensafe_max_model_len,
            "max_lora_rank": state.tensafe_max_lora_rank,
            "adapters": sorted(models.lora_requests),
            "locks": len(models.lora_resolver_lock),
        }
    )


async def _remove(state: State, name: str) -> None:
    lora_request = _models(state).lora_requests.pop(name, None)
    if lora_request is not None:
        await state.tensafe_engine_client.remove_lora(lora_request.lora_int_id)


async def _engine_name(request: Request) -> str:
    try:
        body = await request.json()
        return str(EngineName.parse(body["engine_name"]))
    except (ValueError, KeyError, TypeError, InvalidNameError):
        raise HTTPException(400, 'expected {"engine_name": "ts-…"}') from None


def _models(state: State) -> Any:
    return state.openai_serving_models
