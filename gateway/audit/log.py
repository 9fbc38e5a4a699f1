"""Appends to the audit log: many writers, one chain, one commit for all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from gateway.audit.record import AuditEvent, AuditHead, chain
from gateway.clock import Clock
from gateway.db.engine import Database
from gateway.db.tables import audit_head, audit_records
from gateway.db.transaction import Transaction
from gateway.errors import AuditUnavailableError, StoreUnavailableError

MAX_QUEUED = 4096
"""Events that may wait for the writer; more means that the database cannot keep up."""

MAX_BATCH = 256
"""Records in one commit: enough to hide its cost, few enough to keep it short."""

# Built once: making a statement costs more than running it.
_SELECT_HEAD = select(audit_head.c.sequence, audit_head.c.hash).where(audit_head.c.id == 1)
_INSERT_RECORD = insert(audit_records)
_MOVE_HEAD = (
    update(audit_head)
    .where(audit_head.c.id == 1)
    .values(sequence=bindparam("to_sequence"), hash=bindparam("to_hash"))
)


class AuditLog(Protocol):
    """Where everything that happened is written before it counts."""

    async def append(self, event: AuditEvent) -> int:
        """Return the record's sequence number once it is durable.

        The event is queued before the first suspension: cancelling the wait does not withdraw
        it. Raises AuditUnavailableError when it was not known to be durable within the timeout;
        the caller must then not do what it announced.
        """
        ...

    async def append_within(self, connection: Transaction, event: AuditEvent) -> int:
        """Write the record in the caller's own write transaction; durable when that commits.

        Make it the transaction's last statement: it holds the chain's head until the commit.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    at: datetime
    event: AuditEvent
    done: asyncio.Future[int]


class SqlAuditLog:
    """The audit log in the gateway's database, with group commit (see `open_audit_log`).

    Any number of these, in any number of processes, extend one chain: the row that holds its
    head is locked while a batch is written.
    """

    def __init__(self, database: Database, clock: Clock, *, timeout_s: float) -> None:
        self._database = database
        self._clock = clock
        self._timeout_s = timeout_s
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(MAX_QUEUED)

    async def append(self, event: AuditEvent) -> int:
        """See AuditLog."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(_Waiting(self._clock.now(), event, done))
        except asyncio.QueueFull as error:
            raise AuditUnavailableError("too many audit records are waiting") from error
        try:
            async with asyncio.timeout(self._timeout_s):
                return await done
        except TimeoutError as error:
            raise AuditUnavailableError(
                f"the audit record was not durable within {self._timeout_s:g} s"
            ) from error

    async def append_within(self, connection: Transaction, event: AuditEvent) -> int:
        """See AuditLog."""
        events = [(self._clock.now(), event)]
        return await connection.run_sync(lambda sync: _extend(sync, events))

    async def head(self) -> AuditHead:
        """Return where the chain ends now; raises StoreUnavailableError."""
        async with self._database.read() as connection:
            return await connection.run_sync(read_head)

    async def write_queued(self) -> None:
        """Write batch after batch until cancelled; `open_audit_log` runs it."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                await self._write(batch)
            finally:  # also for those whose batch was cut off by cancellation
                for waiting in batch:
                    self._queue.task_done()
                    waiting.done.cancel()

    async def drain(self) -> None:
        """Return when nothing is queued any more, or the timeout has passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await self._queue.join()

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        events = [(waiting.at, waiting.event) for waiting in batch]
        try:
            last = await self._database.transact(lambda connection: _extend(connection, events))
        except (StoreUnavailableError, AuditUnavailableError, IntegrityError) as error:
            for waiting in batch:
                _fail(waiting.done, error)
            return
        for sequence, waiting in enumerate(batch, last - len(batch) + 1):
            if not waiting.done.done():  # its caller may have given up
                waiting.done.set_result(sequence)


@asynccontextmanager
async def open_audit_log(
    database: Database, clock: Clock, *, timeout_s: float = 2.0
) -> AsyncIterator[SqlAuditLog]:
    """Open the log; at the end, what is queued is written before the writer stops."""
    log = SqlAuditLog(database, clock, timeout_s=timeout_s)
    writer = asyncio.create_task(log.write_queued(), name="audit-writer")
    try:
        yield log
        await log.drain()
    finally:
        writer.cancel()
        with suppress(asyncio.CancelledError):
            await writer


def read_head(connection: Connection, *, lock: bool = False) -> AuditHead:
    """Return where the chain ends; raises AuditUnavailableError when the head's row is gone."""
    query = _SELECT_HEAD.with_for_update() if lock else _SELECT_HEAD
    row = connection.execute(query).one_or_none()
    if row is None:
        raise AuditUnavailableError("the audit log has lost its head: expected one row, got none")
    return AuditHead(row.sequence, row.hash)


def _extend(connection: Connection, events: Sequence[tuple[datetime, AuditEvent]]) -> int:
    """Chain the events to the head, and return the last one's sequence number."""
    head = read_head(connection, lock=True)
    rows = []
    for at, event in events:
        record = chain(head, at, event)
        rows.append({"sequence": record.sequence, "record": record.record, "hash": record.hash})
        head = AuditHead(record.sequence, record.hash)
    connection.execute(_INSERT_RECORD, rows)
    connection.execute(_MOVE_HEAD, {"to_sequence": head.sequence, "to_hash": head.hash})
    return head.sequence


def _fail(done: asyncio.Future[int], cause: Exception) -> None:
    if not done.done():
        error = AuditUnavailableError("the audit record could not be written")
        error.__cause__ = cause
        done.set_exception(error)
