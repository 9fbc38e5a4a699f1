"""Names to adapters in vLLM's API server: only well-formed engine names get anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import GracefulHTTPError
from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from adapter_store.errors import InvalidNameError
from adapter_store.types import EngineName
from runtime.broker.client import BrokerClient
from runtime.errors import AdapterRefusedError, BrokerError
from runtime.patching import replace
from runtime.worker_loading import PATH_PREFIX

RESOLVER_NAME = "tensafe"
MAX_CONCURRENT_PREPARATIONS = 4
"""Decryption is memory bandwidth; more at once only makes each of them slower."""


class TenSafeResolver(LoRAResolver):  # type: ignore[misc]
    """Resolves an engine name once the broker holds its decrypted adapter."""

    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker
        self._threads = ThreadPoolExecutor(
            MAX_CONCURRENT_PREPARATIONS, thread_name_prefix="tensafe-prepare"
        )

    async def prepare(self, engine_name: str) -> bool:
        """Return whether the adapter is there; raises GracefulHTTPError if it cannot be loaded."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads, self._broker.prepare, engine_name)
        except AdapterRefusedError as error:
            if error.kind == "absent":
                return False
            raise _refusal(error) from None
        except BrokerError as error:
            raise _unavailable(error.code) from None
        return True

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:  # noqa: ARG002
        """Return the request for a prepared adapter; vLLM sets its integer id."""
        return LoRARequest(
            lora_name=lora_name, lora_int_id=1, lora_path=f"{PATH_PREFIX}{lora_name}"
        )


def install_resolver(broker: BrokerClient) -> None:
    """Register the resolver, and put the check of names and adapters before vLLM's own steps.

    vLLM would keep a lock for every unknown name, send an exception's text to the client, and
    answer a failed load like a missing one.
    """
    resolver = TenSafeResolver(broker)
    LoRAResolverRegistry.register_resolver(RESOLVER_NAME, resolver)

    replace(OpenAIServingModels, "resolve_lora", make_resolve(resolver))


Resolve = Callable[..., Coroutine[Any, Any, Any]]


def make_resolve(resolver: TenSafeResolver) -> Callable[[Resolve], Resolve]:
    """Return what makes vLLM's `resolve_lora` into ours."""

    def make(original: Resolve) -> Resolve:
        async def resolve_lora(
            models: OpenAIServingModels, lora_name: str
        ) -> LoRARequest | ErrorResponse:
            known = models.lora_requests.get(lora_name)
            if known is not None:
                return known
            if not _is_engine_name(lora_name) or not await resolver.prepare(lora_name):
                return create_error_response(
                    message="The model does not exist.",
                    err_type="NotFoundError",
                    status_code=HTTPStatus.NOT_FOUND,
                )
            loaded = await original(models, lora_name)
            if not isinstance(loaded, LoRARequest):
                forget_lock(models, lora_name)
                raise _could_not_load("engine_refused_adapter")
            return loaded

        return resolve_lora

    return make


def forget_lock(models: OpenAIServingModels, lora_name: str) -> None:
    """Drop the name's lock, unless somebody holds it."""
    lock = models.lora_resolver_lock.get(lora_name)
    if lock is not None and not lock.locked():
        del models.lora_resolver_lock[lora_name]


def _is_engine_name(text: str) -> bool:
    try:
        EngineName.parse(text)
    except InvalidNameError:
        return False
    return True


def _refusal(error: AdapterRefusedError) -> GracefulHTTPError:
    if error.kind == "unavailable":
        return _unavailable(error.reason)
    if error.kind == "failed":
        return GracefulHTTPError(
            f"The adapter failed in use and is no longer served ({error.reason}).",
            HTTPStatus.INTERNAL_SERVER_ERROR,
        )
    return _could_not_load(error.reason)


def _could_not_load(reason: str) -> GracefulHTTPError:
    return GracefulHTTPError(
        f"The adapter could not be loaded ({reason}).", HTTPStatus.UNPROCESSABLE_ENTITY
    )


def _unavailable(reason: str) -> GracefulHTTPError:
    return GracefulHTTPError(
        f"The adapter cannot be loaded now ({reason}). Try again.", HTTPStatus.SERVICE_UNAVAILABLE
    )
