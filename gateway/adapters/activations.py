"""Puts adapters into service: admitted by the pool, then the alias moves.

1. In a transaction: may this version be activated, and where does its alias stand?
2. A signed record lets the pool open the package, and the pool checks the weights.
3. A signed record lets the pool serve it. Nobody calls it yet.
4. In a transaction: the adapter is active, its alias means it, the audit record says so.

A crash after any step leaves a state from which all of it can be repeated; what the first
steps wrote is put right by maintenance if nobody does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.exc import IntegrityError

from adapter_store.errors import NotActiveError, RecordExpiredError, WrongEpochError
from gateway.adapters import repository
from gateway.adapters.events import adapter_event
from gateway.adapters.lifecycle import AdapterState, Move, after
from gateway.adapters.models import Adapter
from gateway.adapters.pool_control import AdmissionRefusedError, PoolControl
from gateway.adapters.records import ADMISSION_LIFETIME, ActivationRecords
from gateway.adapters.reference import parse_reference
from gateway.adapters.settlement import Settlement
from gateway.audit.log import AuditLog
from gateway.audit.record import AuditKind, AuditOutcome
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.db.transaction import Transaction
from gateway.errors import ConflictError, LifecycleError
from gateway.tenancy.principal import Principal
from gateway.tenancy.scopes import Scope

MAX_REASON_CHARACTERS = 500

_NOT_ITS_FAULT = frozenset(
    error.code for error in (NotActiveError, RecordExpiredError, WrongEpochError)
)
"""The pool found fault with the record, not with the weights: its clock may be wrong."""


@dataclass(frozen=True, slots=True)
class _Intent:
    """An activation that has begun: the adapter, and where its alias stood then."""

    adapter: Adapter
    generation: int


class Activations:
    """The way of an adapter from the store into service."""

    def __init__(
        self,
        database: Database,
        records: ActivationRecords,
        settlement: Settlement,
        pool: PoolControl,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._database = database
        self._records = records
        self._settlement = settlement
        self._pool = pool
        self._audit = audit
        self._clock = clock

    async def activate(
        self, actor: Principal, reference: str, *, expected_generation: int | None
    ) -> Adapter:
        """See AdapterService."""
        intent = await self._intend(actor, reference, expected_generation)
        try:
            renew_at = None
            if intent.adapter.state is not AdapterState.ACTIVE:
                renew_at = await self._admit(actor, intent.adapter)
            return await self._commit(actor, intent, renew_at)
        except (ConflictError, LifecycleError, AdmissionRefusedError):
            # The record now says more than the database does.
            await self._settle_as_it_is(intent.adapter)
            raise

    async def _intend(
        self, actor: Principal, reference: str, expected_generation: int | None
    ) -> _Intent:
        tenant = actor.require_tenant(Scope.ADAPTERS_WRITE)
        async with self._database.write() as connection:
            adapter = await repository.get(
                connection, tenant, parse_reference(reference), served_first=False, lock=True
            )
            after(adapter.state, Move.ACTIVATE)
            generation = await repository.alias_generation(connection, tenant, adapter.name)
            if expected_generation not in (None, generation):
                raise ConflictError(
                    f"expected '{adapter.name}' at generation {expected_generation}, "
                    f"it is at {generation}"
                )
            if adapter.state is not AdapterState.ACTIVE:
                abandoned_at = self._clock.now() + ADMISSION_LIFETIME
                await repository.change(connection, adapter, record_due_at=abandoned_at)
        return _Intent(adapter, generation)

    async def _admit(self, actor: Principal, adapter: Adapter) -> datetime:
        """Have the pool check the weights and let it serve them; returns when to renew that."""
        await self._records.admit(adapter)
        try:
            await self._pool.admit(adapter.tenant, adapter.digest)
        except AdmissionRefusedError as refusal:
            await self._reject(actor, adapter, refusal)
            raise
        return await self._records.activate(adapter)

    async def _reject(
        self, actor: Principal, adapter: Adapter, refusal: AdmissionRefusedError
    ) -> None:
        """Mark a new adapter as rejected, unless it was refused for what is not its own fault.

        One that served before merely stays retired. Raises LifecycleError if the adapter was
        revoked or deleted meanwhile, which is then why the pool refused it.
        """
        async with self._database.write() as connection:
            current = await _same(connection, adapter)
            after(current.state, Move.ACTIVATE)
            if current.state is not AdapterState.UPLOADED or refusal.reason_code in _NOT_ITS_FAULT:
                return
            reason = f"{refusal.reason_code}: {refusal}"[:MAX_REASON_CHARACTERS]
            await repository.change(
                connection,
                current,
                state=after(current.state, Move.REJECT),
                reason=reason,
                changed_at=self._clock.now(),
            )
            event = adapter_event(
                AuditKind.ADAPTER_REJECTED,
                actor,
                current,
                outcome=AuditOutcome.REFUSED,
                code=refusal.reason_code,
            )
            await self._audit.append_within(connection, event)

    async def _commit(
        self, actor: Principal, intent: _Intent, renew_at: datetime | None
    ) -> Adapter:
        try:
            async with self._database.write() as connection:
                current = await _same(connection, intent.adapter)
                state = after(current.state, Move.ACTIVATE)
                if current.served and current.state is state:
                    return current  # somebody else did the same meanwhile
                if renew_at is not None:
                    await self._activate_row(connection, intent.adapter, current, renew_at)
                await repository.move_alias(
                    connection, current, intent.generation, self._clock.now()
                )
                activated = await _same(connection, current)
                event = adapter_event(AuditKind.ADAPTER_ACTIVATED, actor, activated)
                await self._audit.append_within(connection, event)
                return activated
        except IntegrityError as error:  # two first activations of one name
            raise ConflictError("another version was activated meanwhile") from error

    async def _activate_row(
        self, connection: Transaction, admitted: Adapter, current: Adapter, renew_at: datetime
    ) -> None:
        if current.epoch != admitted.epoch:
            raise ConflictError("the adapter was taken out of service meanwhile")
        now = self._clock.now()
        await repository.change(
            connection,
            current,
            state=AdapterState.ACTIVE,
            activated_at=now,
            changed_at=now,
            record_due_at=renew_at,
        )

    async def _settle_as_it_is(self, adapter: Adapter) -> None:
        async with self._database.read() as connection:
            current = await repository.get(connection, adapter.tenant, adapter.digest)
        await self._settlement.attempt(current)


async def _same(connection: Transaction, adapter: Adapter) -> Adapter:
    """Return the adapter as it is now, locked."""
    return await repository.get(connection, adapter.tenant, adapter.digest, lock=True)
