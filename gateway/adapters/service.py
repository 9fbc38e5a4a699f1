"""What can be done with adapters: upload, activate, resolve, revoke, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from adapter_store.types import TenantId
from gateway.adapters.models import Adapter, ResolvedAdapter
from gateway.adapters.pool_control import PoolControl
from gateway.audit.log import AuditLog
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.tenancy.principal import Principal
from gateway.tenancy.publisher_keys import PublisherKeys

if TYPE_CHECKING:
    from adapter_store.ingest import PackageIngest
    from adapter_store.objects.store import ObjectStore
    from adapter_store.tssp.signing import PublisherPrivateKey


class AdapterService:
    """The use cases of adapters. Every method is repeatable after a crash at any point.

    Every method raises StoreUnavailableError and AuditUnavailableError as well. `reference` is
    `name`, `name@7` or a digest; what another tenant owns does not exist: NotFoundError.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        ingest: PackageIngest,
        publisher_keys: PublisherKeys,
        pool: PoolControl,
        audit: AuditLog,
        clock: Clock,
        *,
        activation_key: PublisherPrivateKey,
        max_package_bytes: int,
        alias_ttl_s: float,
    ) -> None:
        raise NotImplementedError

    async def upload(self, actor: Principal, chunks: AsyncIterator[bytes]) -> Adapter:
        """Verify and store a package as it streams in.

        Raises PermissionDeniedError, ConflictError (a replay, or a version that exists),
        PayloadTooLargeError, the adapter store's errors for a bad package, UpstreamError when
        the base model's fingerprint cannot be learnt. Nothing is left of a failed upload.
        """
        raise NotImplementedError

    async def activate(
        self, actor: Principal, reference: str, *, expected_generation: int | None = None
    ) -> Adapter:
        """Have the pool check the weights, then serve them under the adapter's name.

        The alias moves only if nobody moved it meanwhile. Raises AdmissionRefusedError (the
        adapter is then rejected), ConflictError, LifecycleError, UpstreamUnavailableError.
        """
        raise NotImplementedError

    async def list(self, actor: Principal) -> list[Adapter]:
        """Return the tenant's adapters, shredded ones left out, by name and version."""
        raise NotImplementedError

    async def get(self, actor: Principal, reference: str) -> Adapter:
        """Return one adapter; `name` alone means the served version, else the newest."""
        raise NotImplementedError

    async def retire(self, actor: Principal, reference: str) -> Adapter:
        """Take an adapter out of service; it may be activated again."""
        raise NotImplementedError

    async def revoke(self, actor: Principal, reference: str, *, reason: str = "") -> Adapter:
        """Withdraw an adapter for good, everywhere within the cache TTL."""
        raise NotImplementedError

    async def delete(self, actor: Principal, reference: str) -> Adapter:
        """Shred an adapter: no longer served, data key destroyed, memory and objects cleared.

        What cannot be reached now (a pool that is away) is finished by maintenance.
        """
        raise NotImplementedError

    async def resolve(self, tenant: TenantId, model: str) -> ResolvedAdapter:
        """Return what `model` means to `tenant` now, from a cache of seconds; NotFoundError."""
        raise NotImplementedError

    async def served(self, tenant: TenantId) -> tuple[ResolvedAdapter, ...]:
        """Return everything that `tenant` can call by alias, by name."""
        raise NotImplementedError

    async def report_engine_failure(self, resolved: ResolvedAdapter) -> None:
        """Give the adapter a new epoch, so a new engine name, after an engine failed under it."""
        raise NotImplementedError
