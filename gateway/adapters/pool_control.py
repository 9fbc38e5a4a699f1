"""What the gateway asks of a base-model pool, beside inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from adapter_store.types import Digest, EngineName, TenantId
from gateway.errors import GatewayError


class AdmissionRefusedError(GatewayError):
    """The pool decrypted the adapter and will not serve it; `reason_code` says why."""

    code = "adapter_rejected"

    def __init__(self, reason_code: str, message: str) -> None:
        super().__init__(message)
        self.reason_code = reason_code


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model that the pool serves."""

    id: str
    fingerprint: str
    max_lora_rank: int
    max_model_len: int


@dataclass(frozen=True, slots=True)
class IngestKey:
    """The public key to which a tenant's publishers seal their packages."""

    key_id: str
    algorithm: str
    public_key: str  # base64


class PoolControl(Protocol):
    """The pool's control interface.

    Every method raises UpstreamUnavailableError when the pool is away or not ready, and
    UpstreamProtocolError when its answer is not understood.
    """

    async def base_model(self) -> BaseModel:
        """Return the model that the pool serves."""
        ...

    async def ingest_key(self, tenant: TenantId) -> IngestKey:
        """Return the key to which packages of `tenant` are sealed."""
        ...

    async def admit(self, tenant: TenantId, digest: Digest) -> dict[str, Any]:
        """Have a package decrypted, checked and taken over; returns the pool's report.

        Repeatable. Raises AdmissionRefusedError.
        """
        ...

    async def evict(self, engine_name: EngineName) -> None:
        """Return once this adapter is in no engine's memory; fine if it never was."""
        ...
