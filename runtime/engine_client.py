"""The agent's questions to its engine, over the engine's private socket."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import msgspec

from adapter_store.types import EngineName
from runtime.errors import EngineUnavailableError
from runtime.plugin_names import EVICT_PATH, STATE_PATH

PROBE_PRIORITY = -1000
"""Lower goes first; the gateway never lets a client choose, so nothing is before a probe."""

PROGRESS_COUNTERS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")


class EngineState(msgspec.Struct, frozen=True):
    """What the endpoint plugin says of the running engine."""

    hooks: str | None
    max_model_len: int  # tokens
    max_lora_rank: int
    adapters: list[str]
    locks: int


class _EvictReply(msgspec.Struct, frozen=True):
    resident: bool


class AgentEngineClient:
    """An async context manager; every method raises EngineUnavailableError, and only that."""

    def __init__(self, socket_path: Path, *, timeout_s: float) -> None:
        self._client = httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(uds=str(socket_path)),
            base_url="http://engine",
            timeout=timeout_s,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def generate_one_token(self, model: str) -> None:
        """Return once the engine has generated a token: the only proof that it lives."""
        await self._request(
            "POST",
            "/v1/completions",
            {"model": model, "prompt": [0], "max_tokens": 1, "priority": PROBE_PRIORITY},
        )

    async def tokens_so_far(self) -> float:
        """Return how many tokens the engine has read and written; it grows while it works."""
        return sum_of_counters((await self._request("GET", "/metrics")).decode(errors="replace"))

    async def state(self) -> EngineState:
        return msgspec.json.decode(await self._request("GET", STATE_PATH), type=EngineState)

    async def evict(self, name: EngineName) -> bool:
        """Put the adapter out of the engine; returns whether it is still there."""
        body = await self._request("POST", EVICT_PATH, {"engine_name": str(name)})
        return msgspec.json.decode(body, type=_EvictReply).resident

    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> bytes:
        try:
            response = await self._client.request(method, path, json=body)
        except httpx2.HTTPError as error:
            raise EngineUnavailableError(
                f"the engine did not answer {path}: {type(error).__name__}"
            ) from error
        if response.status_code != httpx2.codes.OK:
            raise EngineUnavailableError(f"the engine answered {path} with {response.status_code}")
        return response.content


def sum_of_counters(metrics: str) -> float:
    """Return the sum of the engine's token counters in a Prometheus text."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith(PROGRESS_COUNTERS)
    )
