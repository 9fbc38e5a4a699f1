"""Takes packages in: verified while they stream, and registered once."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sqlalchemy.exc import IntegrityError

from adapter_store import errors as store_errors
from adapter_store.ingest import IngestedPackage, PackageIngest
from adapter_store.tssp.signing import PublisherPublicKey
from adapter_store.types import TenantId
from gateway.adapters import repository
from gateway.adapters.events import adapter_event
from gateway.adapters.lifecycle import AdapterState
from gateway.adapters.models import Adapter
from gateway.adapters.pool_control import PoolControl
from gateway.audit.log import AuditLog
from gateway.audit.record import AuditEvent, AuditKind, AuditOutcome
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.errors import ConflictError, InvalidRequestError
from gateway.tenancy.principal import Principal
from gateway.tenancy.publisher_keys import PublisherKeys
from gateway.tenancy.scopes import Scope


class Uploads:
    """The way of a package into the store and the database."""

    def __init__(
        self,
        database: Database,
        ingest: PackageIngest,
        publisher_keys: PublisherKeys,
        pool: PoolControl,
        audit: AuditLog,
        clock: Clock,
        *,
        max_package_bytes: int,
    ) -> None:
        self._database = database
        self._ingest = ingest
        self._publisher_keys = publisher_keys
        self._pool = pool
        self._audit = audit
        self._clock = clock
        self._max_package_bytes = max_package_bytes

    async def upload(self, actor: Principal, chunks: AsyncIterator[bytes]) -> Adapter:
        """See AdapterService."""
        tenant = actor.require_tenant(Scope.ADAPTERS_WRITE)
        trusted = await self._trusted(tenant)
        base = await self._pool.base_model()
        try:
            package = await self._ingest.ingest(
                chunks,
                tenant=tenant,
                trusted=trusted.values(),
                base_fingerprint=base.fingerprint,
                max_bytes=self._max_package_bytes,
            )
        except store_errors.ConflictError as error:
            await self._refused(actor, tenant, error.code)
            raise ConflictError("this package was uploaded before") from error
        except store_errors.AdapterStoreError as error:
            await self._refused(actor, tenant, error.code)
            raise
        uploaded = self._adapter(tenant, package, trusted[package.signer])
        return await self._register(actor, uploaded)

    async def _trusted(self, tenant: TenantId) -> dict[str, PublisherPublicKey]:
        keys = await self._publisher_keys.trusted(tenant)
        if not keys:
            raise InvalidRequestError(
                "no publisher key is registered for this tenant: an administrator registers one "
                "before the first upload",
                code="no_publisher_key",
            )
        return {key.key_id: key for key in keys}

    def _adapter(
        self, tenant: TenantId, package: IngestedPackage, publisher: PublisherPublicKey
    ) -> Adapter:
        manifest = package.manifest
        return Adapter(
            tenant=tenant,
            name=manifest.name,
            version=manifest.version,
            digest=package.digest,
            state=AdapterState.UPLOADED,
            reason=None,
            epoch=1,
            size_bytes=package.size_bytes,
            base_model=manifest.base_model.id,
            description=manifest.description,
            publisher=publisher,
            created_at=self._clock.now(),
            activated_at=None,
            epoch_changed_at=None,
            purged_at=None,
            generation=None,
        )

    async def _register(self, actor: Principal, adapter: Adapter) -> Adapter:
        """Insert the row and its audit record, or remove the package.

        If the database goes away just here, the package stays without a row, and the sweep of
        maintenance removes it: the row may have been committed.
        """
        try:
            async with self._database.write() as connection:
                await repository.add(connection, adapter)
                event = adapter_event(AuditKind.ADAPTER_UPLOADED, actor, adapter)
                await self._audit.append_within(connection, event)
        except IntegrityError as error:
            await self._ingest.remove(adapter.tenant, adapter.digest)
            await self._refused(actor, adapter.tenant, ConflictError.code)
            raise ConflictError(
                f"'{adapter.name}@{adapter.version}', or this very package, was uploaded before"
            ) from error
        return adapter

    async def _refused(self, actor: Principal, tenant: TenantId, code: str) -> None:
        await self._audit.append(
            AuditEvent(
                AuditKind.ADAPTER_REFUSED,
                outcome=AuditOutcome.REFUSED,
                actor=actor.key_id,
                tenant=tenant,
                code=code,
            )
        )
