"""Verification finds every change of a log, in the database and in an export."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import delete, insert, update

from gateway.audit.export import export
from gateway.audit.log import SqlAuditLog
from gateway.audit.record import EMPTY, AuditEvent, AuditHead, AuditKind, chain
from gateway.audit.verify import AuditTamperedError, verify_database, verify_export
from gateway.db.engine import Database
from gateway.db.tables import audit_head, audit_records
from gateway.errors import AuditUnavailableError, NotFoundError
from tests.fakes.clock import FakeClock
from tests.unit.gateway.audit.events import event

pytestmark = pytest.mark.anyio

RECORDS = 5


@pytest.fixture
async def lines(database: Database, audit: SqlAuditLog, clock: FakeClock) -> list[bytes]:
    """An export of some records."""
    for number in range(RECORDS):
        clock.advance(1)
        await audit.append(event(number))
    return [line async for line in export(database)]


async def test_an_untouched_log_verifies(
    database: Database, audit: SqlAuditLog, lines: list[bytes]
) -> None:
    head = await audit.head()
    assert head.sequence == RECORDS
    assert verify_export(lines, noted=head) == head
    assert await verify_database(database, noted=head) == head


async def test_an_empty_log_verifies(database: Database) -> None:
    assert await verify_database(database) == EMPTY
    assert verify_export([line async for line in export(database)]) == EMPTY


async def test_an_export_may_start_later(database: Database, lines: list[bytes]) -> None:
    part = [line async for line in export(database, after=3)]
    assert part[1:] == lines[4:]
    assert verify_export(part) == verify_export(lines)
    with pytest.raises(NotFoundError):
        _ = [line async for line in export(database, after=RECORDS + 1)]


async def test_an_export_of_many_pages_is_whole(
    database: Database, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.audit.export.PAGE_RECORDS", 2)
    assert [line async for line in export(database)] == lines
    assert (await verify_database(database)).sequence == RECORDS


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_every_changed_byte_of_an_export_is_found(lines: list[bytes]) -> None:
    whole = b"".join(lines)
    for place in range(len(whole)):
        for change in (0x01, 0x20, 0x80):
            changed = bytearray(whole)
            changed[place] ^= change
            with pytest.raises(AuditTamperedError):
                verify_export(bytes(changed).splitlines(keepends=True))


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_every_cut_of_an_export_is_found(lines: list[bytes]) -> None:
    whole = b"".join(lines)
    for length in range(len(whole)):
        with pytest.raises(AuditTamperedError):
            verify_export(whole[:length].splitlines(keepends=True))
    with pytest.raises(AuditTamperedError):
        verify_export([*lines, b"\n"])


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:2], *lines[3:]],
        lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
        lambda lines: [*lines[:3], lines[2], *lines[3:]],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [*lines[:-2], lines[-1]],
        lambda lines: lines[1:],
        lambda lines: lines[:-1],
        lambda lines: [],
    ],
    ids=["deleted", "reordered", "repeated", "no first", "no last", "no start", "no head", "none"],
)
async def test_lines_that_are_missing_moved_or_repeated_are_found(
    lines: list[bytes], change: Callable[[Sequence[bytes]], list[bytes]]
) -> None:
    with pytest.raises(AuditTamperedError):
        verify_export(change(lines))


async def test_a_log_that_was_rewritten_with_its_head_needs_a_head_kept_elsewhere(
    database: Database, audit: SqlAuditLog, lines: list[bytes]
) -> None:
    kept = await audit.head()
    async with database.write() as connection:
        await connection.execute(delete(audit_records).where(audit_records.c.sequence == RECORDS))
        previous = bytes.fromhex(lines[-3][9:73].decode())
        await connection.execute(update(audit_head).values(sequence=RECORDS - 1, hash=previous))
    assert (await verify_database(database)).sequence == RECORDS - 1
    with pytest.raises(AuditTamperedError, match=f"expected the noted head {RECORDS}"):
        await verify_database(database, noted=kept)


async def test_a_log_that_grew_still_holds_every_head_that_it_had(
    database: Database, audit: SqlAuditLog, lines: list[bytes]
) -> None:
    kept = await audit.head()
    await audit.append(AuditEvent(kind=AuditKind.TENANT_CREATED, subject="later"))
    assert (await verify_database(database, noted=kept)).sequence == kept.sequence + 1
    for sequence in (0, kept.sequence, kept.sequence + 2):
        forged = AuditHead(sequence, b"\xff" * 32)
        with pytest.raises(AuditTamperedError, match="expected the noted head"):
            await verify_database(database, noted=forged)


async def tampered(database: Database) -> str:
    with pytest.raises(AuditTamperedError) as error:
        await verify_database(database)
    return str(error.value)


async def test_a_changed_record_in_the_database_is_found(
    database: Database, lines: list[bytes]
) -> None:
    record = lines[3].partition(b'"record":')[2][:-2]
    for place in range(0, len(record), 7):
        changed = bytearray(record)
        changed[place] ^= 1
        await _set(database, 3, record=bytes(changed))
        assert "record 3" in await tampered(database)
    await _set(database, 3, record=record)
    await verify_database(database)


async def test_a_changed_hash_in_the_database_is_found(
    database: Database, lines: list[bytes]
) -> None:
    await _set(database, 3, hash=hashlib.sha256(b"another").digest())
    assert "record 3 or its hash was changed" in await tampered(database)


async def test_a_record_that_was_replaced_with_its_own_hash_is_found(
    database: Database, lines: list[bytes], clock: FakeClock
) -> None:
    previous = AuditHead(2, bytes.fromhex(lines[2][9:73].decode()))
    forged = chain(previous, clock.now(), event(99))
    await _set(database, 3, record=forged.record, hash=forged.hash)
    assert "record 4" in await tampered(database)


@pytest.mark.parametrize("sequence", range(1, RECORDS + 1))
async def test_a_deleted_record_in_the_database_is_found(
    database: Database, lines: list[bytes], sequence: int
) -> None:
    async with database.write() as connection:
        await connection.execute(delete(audit_records).where(audit_records.c.sequence == sequence))
    await tampered(database)


async def test_records_that_changed_places_are_found(
    database: Database, lines: list[bytes]
) -> None:
    for old, new in ((2, 1000), (3, 2), (1000, 3)):
        await _set(database, old, sequence=new)
    assert "record 2 says that it is another one" in await tampered(database)


@pytest.mark.parametrize("sequence", [0, -1, RECORDS + 1, RECORDS + 2])
async def test_an_inserted_record_is_found(
    database: Database, lines: list[bytes], audit: SqlAuditLog, clock: FakeClock, sequence: int
) -> None:
    forged = chain(await audit.head(), clock.now(), event(99))
    async with database.write() as connection:
        await connection.execute(
            insert(audit_records).values(sequence=sequence, record=forged.record, hash=forged.hash)
        )
    await tampered(database)


async def test_a_changed_or_missing_head_is_found(
    database: Database, lines: list[bytes], audit: SqlAuditLog
) -> None:
    head = await audit.head()
    for sequence, hash_ in (
        (RECORDS + 1, head.hash),
        (RECORDS - 1, head.hash),
        (RECORDS, bytes(32)),
    ):
        async with database.write() as connection:
            await connection.execute(update(audit_head).values(sequence=sequence, hash=hash_))
        await tampered(database)
    async with database.write() as connection:
        await connection.execute(delete(audit_head))
    with pytest.raises(AuditUnavailableError, match="lost its head"):
        await verify_database(database)


async def test_a_log_verifies_while_it_grows(database: Database, audit: SqlAuditLog) -> None:
    async def grow() -> None:
        for number in range(300):
            await audit.append(event(number))

    task = asyncio.create_task(grow())
    while not task.done():
        await verify_database(database)
    await task
    assert (await verify_database(database)).sequence == 300


async def _set(database: Database, row: int, **values: object) -> None:
    async with database.write() as connection:
        await connection.execute(
            update(audit_records).where(audit_records.c.sequence == row).values(**values)
        )
