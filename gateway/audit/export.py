"""Writes the audit log out as JSON lines that can be verified anywhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec
from sqlalchemy import Row, select

from gateway.audit.log import read_head
from gateway.audit.record import GENESIS, AuditHead, ChainedRecord
from gateway.db.engine import Database
from gateway.db.tables import audit_records
from gateway.errors import NotFoundError

PAGE_RECORDS = 1000


async def export(database: Database, *, after: int = 0) -> AsyncIterator[bytes]:
    """Yield the log as JSON lines, each ending in a newline: start, records, head.

    Holds as of the moment it begins; memory is bounded by one page of records. `after` leaves
    out the records up to that sequence number; NotFoundError if there are not that many. Raises
    StoreUnavailableError.
    """
    start, head = await read_bounds(database, after=after)
    yield bound_line("start", start)
    async for page in read_pages(database, after=start.sequence, until=head.sequence):
        for record in page:
            yield record_line(record)
    yield bound_line("head", head)


async def read_bounds(database: Database, *, after: int) -> tuple[AuditHead, AuditHead]:
    """Return what the record behind `after` is chained to, and where the chain ends."""
    async with database.read() as connection:
        head = await connection.run_sync(read_head)
        if after <= 0:
            return AuditHead(0, GENESIS), head
        query = select(audit_records.c.hash).where(audit_records.c.sequence == after)
        previous = (await connection.execute(query)).scalar_one_or_none()
    if previous is None:
        raise NotFoundError(f"the audit log has no record {after}")
    return AuditHead(after, previous), head


async def read_pages(
    database: Database, *, after: int, until: int
) -> AsyncIterator[Sequence[ChainedRecord]]:
    """Yield the stored records with `after < sequence <= until` in order, a page at a time."""
    while True:
        query = (
            select(audit_records)
            .where(audit_records.c.sequence > after, audit_records.c.sequence <= until)
            .order_by(audit_records.c.sequence)
            .limit(PAGE_RECORDS)
        )
        async with database.read() as connection:
            page = [_record(row) for row in await connection.execute(query)]
        if not page:
            return
        yield page
        after = page[-1].sequence


def record_line(record: ChainedRecord) -> bytes:
    """Return `{"hash": …, "record": …}`, whose record is the canonical bytes as stored."""
    return b'{"hash":"%b","record":%b}\n' % (record.hash.hex().encode(), record.record)


def bound_line(name: str, bound: AuditHead) -> bytes:
    """Return the line that says where the exported part starts, or where the chain ends."""
    value = {name: {"hash": bound.hash.hex(), "sequence": bound.sequence}}
    return msgspec.json.encode(value, order="sorted") + b"\n"


def _record(row: Row[tuple[int, bytes, bytes]]) -> ChainedRecord:
    return ChainedRecord(sequence=row.sequence, record=row.record, hash=row.hash)
