"""The log is one chain whoever appends; without a durable record the caller is told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import Connection

from gateway.audit import log as audit_log
from gateway.audit.log import SqlAuditLog, open_audit_log
from gateway.audit.verify import verify_database
from gateway.clock import SystemClock
from gateway.db.engine import Database, open_database
from gateway.db.migrations import migrate
from gateway.db.tables import audit_records
from gateway.errors import AuditUnavailableError
from tests.databases import hung
from tests.fakes.clock import FakeClock
from tests.unit.gateway.audit.events import event

pytestmark = pytest.mark.anyio


async def records(database: Database) -> list[dict[str, Any]]:
    async with database.read() as connection:
        rows = await connection.execute(select(audit_records).order_by(audit_records.c.sequence))
        return [msgspec.json.decode(row.record) for row in rows]


async def test_an_appended_event_is_durable_when_its_number_is_known(
    database: Database, audit: SqlAuditLog, clock: FakeClock
) -> None:
    assert [await audit.append(event(number)) for number in range(3)] == [1, 2, 3]
    found = await records(database)
    assert [each["request_id"] for each in found] == ["req-0", "req-1", "req-2"]
    assert found[0]["at"] == "2026-01-01T00:00:00.000000Z"
    assert (await verify_database(database)).sequence == 3


async def test_writers_that_wait_together_share_commits(
    database: Database, audit: SqlAuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = 0
    transact = database.transact

    async def counted(work: Any) -> Any:
        nonlocal commits
        commits += 1
        return await transact(work)

    monkeypatch.setattr(database, "transact", counted)
    numbers = await asyncio.gather(*(audit.append(event(number)) for number in range(500)))
    assert sorted(numbers) == list(range(1, 501))
    assert commits <= 4  # batches of 256
    found = await records(database)
    assert [found[number - 1]["request_id"] for number in numbers] == [
        f"req-{number}" for number in range(500)
    ]


async def test_the_chain_stays_linear_with_two_logs_and_transactions_in_between(
    database_url: str,
) -> None:
    @asynccontextmanager
    async def replica() -> AsyncIterator[tuple[Database, SqlAuditLog]]:
        async with (
            open_database(database_url) as database,
            open_audit_log(database, SystemClock(), timeout_s=10) as log,
        ):
            yield database, log

    async def write(database: Database, log: SqlAuditLog, name: int) -> None:
        for number in range(40):
            await log.append(event(name * 1000 + number))
            async with database.write() as connection:
                await log.append_within(connection, event(name * 1000 + 500 + number))

    async with replica() as (database, first), replica() as (other, second):
        async with asyncio.TaskGroup() as group:
            for name in range(3):
                group.create_task(write(database, first, name))
                group.create_task(write(other, second, 10 + name))
        assert (await verify_database(database)).sequence == 6 * 80
        assert len({each["request_id"] for each in await records(database)}) == 6 * 80


async def test_a_transaction_that_fails_takes_its_record_with_it(
    database: Database, audit: SqlAuditLog
) -> None:
    async def fail_after_the_record() -> None:
        async with database.write() as connection:
            assert await audit.append_within(connection, event()) == 1
            raise RuntimeError("after the record")

    with pytest.raises(RuntimeError, match="after the record"):
        await fail_after_the_record()
    assert await records(database) == []
    assert await audit.append(event()) == 1


async def test_an_event_is_written_even_if_nobody_waits_any_more(
    database: Database, audit: SqlAuditLog
) -> None:
    task = asyncio.create_task(audit.append(event()))
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await audit.append(event(1))
    assert [each["request_id"] for each in await records(database)] == ["req-0", "req-1"]


async def test_what_is_queued_is_written_before_the_log_closes(
    database: Database, clock: FakeClock
) -> None:
    async with open_audit_log(database, clock) as log:
        tasks = [asyncio.create_task(log.append(event(number))) for number in range(20)]
        await asyncio.sleep(0)
    assert sorted(await asyncio.gather(*tasks)) == list(range(1, 21))
    assert "audit-writer" not in {task.get_name() for task in asyncio.all_tasks()}


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


async def test_a_database_without_its_tables_refuses_and_then_recovers(
    empty_database_url: str, clock: FakeClock
) -> None:
    async with (
        open_database(empty_database_url) as database,
        open_audit_log(database, clock) as log,
    ):
        with pytest.raises(AuditUnavailableError), no_longer_than(2.5):
            await log.append(event())
        await migrate(database)
        assert await log.append(event()) == 1


async def test_a_log_without_its_head_refuses(database: Database, audit: SqlAuditLog) -> None:
    async with database.write() as connection:
        await connection.execute(text("DELETE FROM audit_head"))
    with pytest.raises(AuditUnavailableError):
        await audit.append(event())


FULL_DISK = {
    "sqlite": ("PRAGMA max_page_count = 1",),
    "postgresql": (
        """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$""",
        """CREATE TRIGGER full_disk BEFORE INSERT ON audit_records
           FOR EACH ROW EXECUTE FUNCTION full_disk()""",
    ),
}


def _run(connection: Connection, statement: str) -> None:
    connection.exec_driver_sql(statement).close()


async def test_a_full_disk_refuses(empty_database_url: str, clock: FakeClock, dialect: str) -> None:
    """SQLite meets its own limit of pages; Postgres raises the error that a full disk does."""
    async with (
        open_database(empty_database_url) as database,
        open_audit_log(database, clock) as log,
    ):
        await migrate(database)
        for statement in FULL_DISK[dialect]:
            await database.transact(lambda connection, s=statement: _run(connection, s))
        refused = 0
        for number in range(200):  # SQLite fills the pages that it has
            try:
                await log.append(event(number))
            except AuditUnavailableError:
                refused += 1
        assert refused
        assert (await verify_database(database)).sequence == 200 - refused


async def test_a_hung_database_refuses_within_the_timeout_and_then_recovers(
    dialect: str, database_url: str, request: pytest.FixtureRequest
) -> None:
    async with (
        open_database(database_url) as database,
        open_audit_log(database, SystemClock(), timeout_s=0.5) as log,
    ):
        assert await log.append(event(0)) == 1
        with hung(dialect, database_url, request):
            for number in range(3):
                with pytest.raises(AuditUnavailableError), no_longer_than(1.5):
                    await log.append(event(number))
        async with asyncio.timeout(15):
            while True:
                with suppress(AuditUnavailableError):
                    await log.append(event(9))
                    break
        await verify_database(database)


async def test_more_events_than_may_wait_are_refused_at_once(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "MAX_QUEUED", 10)
    log = SqlAuditLog(database, clock, timeout_s=0.2)  # nobody writes
    tasks = [asyncio.create_task(log.append(event(number))) for number in range(10)]
    await asyncio.sleep(0)
    with pytest.raises(AuditUnavailableError, match="too many"), no_longer_than(0.1):
        await log.append(event())
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, AuditUnavailableError)


KILLED_WRITER = """
import asyncio, sys
from gateway.audit.log import open_audit_log
from gateway.clock import SystemClock
from gateway.db.engine import open_database
from tests.unit.gateway.audit.events import event

async def write(log, name):
    for number in range(10**6):
        sequence = await log.append(event(name * 10**6 + number))
        print(sequence, f"req-{name * 10**6 + number}", flush=True)

async def main():
    async with open_database(sys.argv[1]) as database:
        async with open_audit_log(database, SystemClock(), timeout_s=10) as log:
            await asyncio.gather(*(write(log, name) for name in range(8)))

asyncio.run(main())
"""


def start_writer(database_url: str, output: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        return subprocess.Popen([sys.executable, "-c", KILLED_WRITER, database_url], stdout=file)


async def test_a_gateway_that_is_killed_loses_no_record_that_it_reported(
    database_url: str, tmp_path: Path
) -> None:
    reported: dict[int, str] = {}
    for round_ in range(2):
        output = tmp_path / f"reported-{round_}"
        child = start_writer(database_url, output)
        try:
            async with asyncio.timeout(60):
                while output.read_bytes().count(b"\n") < 200:
                    assert child.poll() is None
                    await asyncio.sleep(0.02)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        for line in output.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                sequence, request_id = line.split()
                assert int(sequence) not in reported
                reported[int(sequence)] = request_id
    async with open_database(database_url) as database:
        head = await verify_database(database)
        found = {each["sequence"]: each["request_id"] for each in await records(database)}
        assert len(reported) >= 400
        assert reported.items() <= found.items()
        async with open_audit_log(database, SystemClock()) as log:  # and it goes on
            assert await log.append(event()) == head.sequence + 1
        await verify_database(database)
