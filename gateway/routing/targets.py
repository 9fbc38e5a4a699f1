"""From the name that a client calls to the one that the engine knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from adapter_store.errors import InvalidNameError
from adapter_store.types import Digest, TenantId
from gateway.adapters.models import ResolvedAdapter
from gateway.errors import ModelNotFoundError, NotFoundError
from gateway.routing.base_model import BaseModelDirectory


@dataclass(frozen=True, slots=True)
class Target:
    """Where one request goes. Kept to the request's end, whatever happens to the alias."""

    alias: str
    engine_model: str
    adapter: ResolvedAdapter | None

    @property
    def digest(self) -> Digest | None:
        """The adapter's digest; None for the base model."""
        return self.adapter.digest if self.adapter else None

    @property
    def kind(self) -> str:
        """`adapter` or `base`, for metrics."""
        return "adapter" if self.adapter else "base"


class AdapterDirectory(Protocol):
    """What inference needs of the adapter service."""

    async def resolve(self, tenant: TenantId, model: str) -> ResolvedAdapter:
        """Return what `model` means to `tenant`; raises NotFoundError."""
        ...

    async def served(self, tenant: TenantId) -> tuple[ResolvedAdapter, ...]:
        """Return everything that `tenant` can call by alias."""
        ...

    async def report_engine_failure(self, resolved: ResolvedAdapter) -> None:
        """Renew an adapter under which an engine failed."""
        ...


class Targets:
    """Resolves names; the base model's name comes first and is the same for every tenant."""

    def __init__(self, adapters: AdapterDirectory, base_model: BaseModelDirectory) -> None:
        self._adapters = adapters
        self._base_model = base_model

    async def resolve(self, tenant: TenantId, model: str) -> Target:
        """Return where `model` goes; raises ModelNotFoundError, one text for every reason."""
        base = await self._base_model.current()
        if model == base.id:
            return Target(alias=model, engine_model=base.id, adapter=None)
        try:
            adapter = await self._adapters.resolve(tenant, model)
        except (NotFoundError, InvalidNameError):
            raise ModelNotFoundError from None
        return Target(alias=model, engine_model=str(adapter.engine_name), adapter=adapter)
