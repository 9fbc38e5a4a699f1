"""What can be done with adapters: upload, activate, resolve, revoke, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from adapter_store.types import TenantId
from gateway.adapters import repository
from gateway.adapters.activations import Activations
from gateway.adapters.events import adapter_event
from gateway.adapters.lifecycle import AdapterState, Move, after
from gateway.adapters.models import Adapter, ResolvedAdapter
from gateway.adapters.reference import parse_reference
from gateway.adapters.resolver import AdapterResolver
from gateway.adapters.settlement import Settlement
from gateway.adapters.uploads import Uploads
from gateway.audit.log import AuditLog
from gateway.audit.record import AuditKind, AuditOutcome
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.db.transaction import Transaction
from gateway.tenancy.labels import check_label
from gateway.tenancy.principal import Principal
from gateway.tenancy.scopes import Scope

MIN_EPOCH_AGE = timedelta(seconds=5)
"""An adapter that fails all the time gets a new engine name no more often than that."""

_KINDS = {
    Move.RETIRE: AuditKind.ADAPTER_RETIRED,
    Move.REVOKE: AuditKind.ADAPTER_REVOKED,
    Move.DELETE: AuditKind.ADAPTER_DELETED,
}


class AdapterService:
    """The use cases of adapters (see `build_adapters`); repeatable after a crash at any point.

    Every method raises StoreUnavailableError and AuditUnavailableError as well. `reference` is
    `name`, `name@7` or a digest; what another tenant owns does not exist: NotFoundError.
    """

    def __init__(
        self,
        database: Database,
        uploads: Uploads,
        activations: Activations,
        resolver: AdapterResolver,
        settlement: Settlement,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._database = database
        self._uploads = uploads
        self._activations = activations
        self._resolver = resolver
        self._settlement = settlement
        self._audit = audit
        self._clock = clock

    async def upload(self, actor: Principal, chunks: AsyncIterator[bytes]) -> Adapter:
        """Verify and store a package as it streams in.

        Raises PermissionDeniedError, InvalidRequestError (no publisher key is registered),
        ConflictError (a replay, or a version that exists), the adapter store's errors for a bad
        package, UpstreamError when the base model's fingerprint cannot be learnt, and what
        `chunks` raises. Nothing is left of a failed upload.
        """
        return await self._uploads.upload(actor, chunks)

    async def activate(
        self, actor: Principal, reference: str, *, expected_generation: int | None = None
    ) -> Adapter:
        """Have the pool check the weights, then serve them under the adapter's name.

        A bare name means the newest version. The alias moves only if nobody moved it meanwhile;
        other versions stay callable as `name@version`. Raises AdmissionRefusedError (the
        adapter is then rejected), ConflictError, LifecycleError, UpstreamUnavailableError, and
        the adapter store's StorageError.
        """
        activated = await self._activations.activate(
            actor, reference, expected_generation=expected_generation
        )
        self._resolver.forget(activated)
        return activated

    async def get(self, actor: Principal, reference: str) -> Adapter:
        """Return one adapter; `name` alone means the served version, else the newest."""
        tenant = actor.require_tenant(Scope.ADAPTERS_READ)
        async with self._database.read() as connection:
            return await repository.get(connection, tenant, parse_reference(reference))

    async def retire(self, actor: Principal, reference: str) -> Adapter:
        """Take an adapter out of service; it may be activated again."""
        return await self._withdraw(actor, reference, Move.RETIRE)

    async def revoke(self, actor: Principal, reference: str, *, reason: str = "") -> Adapter:
        """Withdraw an adapter for good, everywhere within the cache TTL."""
        return await self._withdraw(
            actor, reference, Move.REVOKE, reason=check_label(reason, "reason")
        )

    async def delete(self, actor: Principal, reference: str) -> Adapter:
        """Shred an adapter: no longer served, data key destroyed, memory and objects cleared.

        What cannot be reached now (a pool that is away) is finished by maintenance.
        """
        return await self._withdraw(actor, reference, Move.DELETE)

    async def resolve(self, tenant: TenantId, model: str) -> ResolvedAdapter:
        """Return what `model` means to `tenant` now, from a cache of seconds; NotFoundError."""
        return await self._resolver.resolve(tenant, model)

    async def served(self, tenant: TenantId) -> tuple[ResolvedAdapter, ...]:
        """Return everything that `tenant` can call by alias, by name."""
        return await self._resolver.served(tenant)

    async def report_engine_failure(self, resolved: ResolvedAdapter) -> None:
        """Give the adapter a new epoch, so a new engine name, after an engine failed under it.

        Nothing happens if it has another one by now, or if the last one is only seconds old.
        """
        async with self._database.write() as connection:
            adapter = await repository.get(
                connection, resolved.engine_name.tenant, resolved.digest, lock=True
            )
            if adapter.engine_name != resolved.engine_name or not self._may_renew(adapter):
                return
            renewed = await self._end_epoch(connection, adapter)
            event = adapter_event(
                AuditKind.ADAPTER_ENGINE_FAILED, None, renewed, outcome=AuditOutcome.FAILED
            )
            await self._audit.append_within(connection, event)
        self._resolver.forget(renewed)
        await self._settlement.attempt(renewed)

    async def list(self, actor: Principal) -> list[Adapter]:
        """Return the tenant's adapters, shredded ones left out, by name and version."""
        tenant = actor.require_tenant(Scope.ADAPTERS_READ)
        async with self._database.read() as connection:
            return await repository.list_of(connection, tenant)

    def _may_renew(self, adapter: Adapter) -> bool:
        began = adapter.epoch_changed_at
        settled = began is None or self._clock.now() - began >= MIN_EPOCH_AGE
        return adapter.state is AdapterState.ACTIVE and settled

    async def _withdraw(
        self, actor: Principal, reference: str, move: Move, *, reason: str | None = None
    ) -> Adapter:
        """Take an adapter out of service in one transaction, then settle the rest."""
        tenant = actor.require_tenant(Scope.ADAPTERS_WRITE)
        async with self._database.write() as connection:
            adapter = await repository.get(
                connection, tenant, parse_reference(reference), lock=True
            )
            state = after(adapter.state, move)
            if state is not adapter.state:
                adapter = await self._end(connection, adapter, state, reason)
                event = adapter_event(_KINDS[move], actor, adapter)
                await self._audit.append_within(connection, event)
        self._resolver.forget(adapter)
        await self._settlement.attempt(adapter)
        return adapter

    async def _end(
        self,
        connection: Transaction,
        adapter: Adapter,
        state: AdapterState,
        reason: str | None,
    ) -> Adapter:
        values = {"state": state} | ({} if reason is None else {"reason": reason})
        await repository.drop_alias(connection, adapter, self._clock.now())
        if adapter.state is AdapterState.ACTIVE:
            return await self._end_epoch(connection, adapter, **values)
        return await self._change(connection, adapter, **values)

    async def _end_epoch(self, connection: Transaction, adapter: Adapter, **values: Any) -> Adapter:
        """Let the engine name die: the engines must forget it, and it never comes back."""
        now = self._clock.now()
        await repository.request_eviction(connection, adapter.engine_name, now)
        return await self._change(
            connection, adapter, epoch=adapter.epoch + 1, epoch_changed_at=now, **values
        )

    async def _change(self, connection: Transaction, adapter: Adapter, **values: Any) -> Adapter:
        now = self._clock.now()
        await repository.change(connection, adapter, changed_at=now, record_due_at=now, **values)
        return await repository.get(connection, adapter.tenant, adapter.digest)
