"""What the gateway knows about an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from adapter_store.tssp.signing import PublisherPublicKey
from adapter_store.types import AdapterName, Digest, EngineName, TenantId
from gateway.adapters.lifecycle import AdapterState


@dataclass(frozen=True, slots=True)
class Adapter:
    """One version of a tenant's adapter."""

    tenant: TenantId
    name: AdapterName
    version: int
    digest: Digest
    state: AdapterState
    reason: str | None
    """Why it was rejected or revoked."""
    epoch: int
    size_bytes: int
    base_model: str
    description: str
    publisher: PublisherPublicKey
    """Whose signature its package bears."""
    created_at: datetime
    activated_at: datetime | None
    epoch_changed_at: datetime | None
    purged_at: datetime | None
    """When the last of its objects was gone."""
    generation: int | None
    """How often the alias moved, if the alias `name` means this version; otherwise None."""

    @property
    def publisher_key_id(self) -> str:
        """The id of the key that signed its package."""
        return self.publisher.key_id

    @property
    def served(self) -> bool:
        """Whether the alias `name` means this version."""
        return self.generation is not None

    @property
    def engine_name(self) -> EngineName:
        """The name by which engines know it."""
        return EngineName(self.tenant, self.digest, self.epoch)


@dataclass(frozen=True, slots=True)
class ResolvedAdapter:
    """What a model name means to a tenant at one moment; a request keeps it to its end."""

    alias: str
    """As the caller wrote it."""
    name: AdapterName
    version: int
    digest: Digest
    engine_name: EngineName
    created_at: datetime
