"""The pool's control interface over its Unix socket: seldom called, so httpx2."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx2
import msgspec

from adapter_store.types import Digest, EngineName, TenantId
from gateway.adapters.pool_control import AdmissionRefusedError, BaseModel, IngestKey
from gateway.errors import UpstreamProtocolError, UpstreamUnavailableError
from gateway.routing.engine_client import check_socket_path

_TIMEOUT_S: Final = 5.0
_ADMISSION_TIMEOUT_S: Final = 120.0
"""The pool decrypts and checks the whole package, up to 2 GiB, while it admits."""

_MAX_REASON_CHARS: Final = 500
_REFUSED: Final = 422

Answer = TypeVar("Answer")


class _Health(msgspec.Struct, frozen=True):
    status: str
    reason: str | None = None


class _Report(msgspec.Struct, frozen=True):
    report: dict[str, Any]


class _Residency(msgspec.Struct, frozen=True):
    resident: bool


class _ControlError(msgspec.Struct, frozen=True):
    code: str
    message: str


class _ControlErrorEnvelope(msgspec.Struct, frozen=True):
    error: _ControlError


class UnixPoolControl:
    """PoolControl of the pool on this machine. Made by `open_pool_control`."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def base_model(self) -> BaseModel:
        """See PoolControl."""
        return _decode(await self._call("GET", "/base-model"), BaseModel)

    async def ingest_key(self, tenant: TenantId) -> IngestKey:
        """See PoolControl."""
        return _decode(await self._call("GET", f"/ingest-keys/{tenant}"), IngestKey)

    async def admit(self, tenant: TenantId, digest: Digest) -> dict[str, Any]:
        """See PoolControl."""
        response = await self._call(
            "POST",
            "/adapters/admit",
            {"tenant": tenant, "digest": digest},
            timeout_s=_ADMISSION_TIMEOUT_S,
        )
        return _decode(response, _Report).report

    async def evict(self, engine_name: EngineName) -> None:
        """See PoolControl."""
        response = await self._call("POST", "/adapters/evict", {"engine_name": str(engine_name)})
        if _decode(response, _Residency).resident:
            raise UpstreamProtocolError("the pool evicted an adapter that is still resident")

    async def check(self) -> None:
        """Return if the pool is ready; raises UpstreamUnavailableError."""
        if _decode(await self._call("GET", "/health"), _Health).status != "ready":
            raise UpstreamUnavailableError("the pool is not ready")

    async def _call(
        self,
        method: str,
        path: str,
        body: dict[str, str] | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
    ) -> httpx2.Response:
        try:
            response = await self._client.request(
                method, f"/control/v1{path}", json=body, timeout=timeout_s
            )
        except (httpx2.TimeoutException, httpx2.NetworkError) as error:
            raise UpstreamUnavailableError("the pool's control socket does not answer") from error
        except httpx2.HTTPError as error:
            raise UpstreamProtocolError("the pool's control answer is not HTTP") from error
        _raise_for_status(response)
        return response


def _raise_for_status(response: httpx2.Response) -> None:
    if response.is_success:
        return
    if response.status_code == _REFUSED:
        error = _decode(response, _ControlErrorEnvelope).error
        raise AdmissionRefusedError(error.code, error.message[:_MAX_REASON_CHARS])
    if response.is_server_error:
        raise UpstreamUnavailableError(f"the pool's control answered {response.status_code}")
    raise UpstreamProtocolError(f"the pool's control answered {response.status_code}")


def _decode(response: httpx2.Response, kind: type[Answer]) -> Answer:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("the pool's control answer has another shape") from error


@asynccontextmanager
async def open_pool_control(socket: Path) -> AsyncIterator[UnixPoolControl]:
    """Open a client of the control socket; connects at the first use."""
    transport = httpx2.AsyncHTTPTransport(uds=check_socket_path(socket))
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://pool", trust_env=False
    ) as client:
        yield UnixPoolControl(client)
