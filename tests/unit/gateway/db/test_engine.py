"""Transactions are whole or not at all, bounded in time, and say nothing of what was in them."""

from __future__ import annotations

import asyncio
import stat
import time
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from gateway.db import engine as db_engine
from gateway.db.engine import Database, open_database
from gateway.db.tables import tenants
from gateway.errors import InvalidRequestError, StoreUnavailableError
from tests.databases import PostgresServer, hung
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.anyio


async def add(database: Database, name: str, clock: FakeClock) -> None:
    async with database.write() as connection:
        await connection.execute(
            insert(tenants).values(id=name, display_name="", created_at=clock.now())
        )


async def names(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(select(tenants.c.id))).scalars())


async def test_a_transaction_is_kept_unless_its_body_raises(
    database: Database, clock: FakeClock
) -> None:
    await add(database, "acme", clock)

    async def fail() -> None:
        async with database.write() as connection:
            await connection.execute(
                insert(tenants).values(id="globex", display_name="", created_at=clock.now())
            )
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await names(database) == ["acme"]


async def test_transact_commits_what_its_work_did_or_nothing(database: Database) -> None:
    def work(connection: Connection, fail: bool) -> int:
        connection.execute(text("INSERT INTO audit_records VALUES (1, '', '')"))
        if fail:
            raise RuntimeError
        return 7

    with pytest.raises(RuntimeError):
        await database.transact(lambda connection: work(connection, True))
    assert await database.transact(lambda connection: work(connection, False)) == 7


async def test_what_exists_already_is_an_integrity_error(
    database: Database, clock: FakeClock
) -> None:
    await add(database, "acme", clock)
    with pytest.raises(IntegrityError):
        await add(database, "acme", clock)


async def test_writers_in_one_process_all_get_their_turn(
    database: Database, clock: FakeClock
) -> None:
    await asyncio.gather(*(add(database, f"t{number}", clock) for number in range(60)))
    assert len(await names(database)) == 60


async def test_times_come_back_in_utc(database: Database, clock: FakeClock) -> None:
    await add(database, "acme", clock)
    async with database.read() as connection:
        created_at = (await connection.execute(select(tenants.c.created_at))).scalar_one()
    assert created_at == clock.now()
    assert created_at.utcoffset().total_seconds() == 0


async def test_a_time_without_a_zone_is_refused(database: Database, clock: FakeClock) -> None:
    naive = FakeClock(clock.now().replace(tzinfo=None))
    with pytest.raises(StoreUnavailableError):
        await add(database, "acme", naive)


async def test_a_transaction_that_waits_too_long_is_ended(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db_engine, "TRANSACTION_TIMEOUT_S", 0.2)

    async def hold() -> None:
        async with database.write() as connection:
            await connection.execute(text("SELECT 1"))
            await asyncio.sleep(30)

    began = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        await hold()
    assert time.monotonic() - began < 2
    await add(database, "acme", clock)  # nothing is held any more


async def test_a_hung_database_is_given_up_and_then_works_again(
    dialect: str,
    database_url: str,
    clock: FakeClock,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_database(database_url) as database:
        await add(database, "acme", clock)
        with hung(dialect, database_url, request), monkeypatch.context() as patch:
            patch.setattr(db_engine, "TRANSACTION_TIMEOUT_S", 0.3)
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                await add(database, "globex", clock)
            assert time.monotonic() - began < 2
        await add(database, "initech", clock)
        assert await names(database) == ["acme", "initech"]


async def test_an_error_repeats_no_value(database: Database) -> None:
    with pytest.raises(StoreUnavailableError) as failed:
        async with database.read() as connection:
            await connection.execute(text("SELECT * FROM nowhere WHERE a = :a"), {"a": "s3cret"})
    assert "s3cret" not in str(failed.value)
    assert "s3cret" not in str(failed.value.__cause__)


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://host/x", "sqlite://", "sqlite:///:memory:", "file:///x"]
)
async def test_a_url_of_another_kind_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected") as refused:
        async with open_database(url):
            pass
    assert not url or url not in str(refused.value)


async def test_a_server_that_is_not_there_is_unavailable_within_seconds() -> None:
    url = "postgresql://tensafe:s3cret@127.0.0.1:1/nowhere"
    async with open_database(url) as database:
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError) as failed:
            await database.ping()
        assert time.monotonic() - began < 6
        assert "s3cret" not in str(failed.value)
        assert "s3cret" not in repr(database)


def test_a_new_sqlite_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "gateway.db"

    async def use() -> set[int]:
        async with open_database(f"sqlite:///{path}") as database:
            await database.ping()
            return {stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)}

    assert asyncio.run(use()) == {0o600, 0o700}


async def test_sqlite_is_durable_and_readers_do_not_wait_for_writers(tmp_path: Path) -> None:
    async with open_database(f"sqlite:///{tmp_path / 'x.db'}") as database:
        for statement, expected in (("journal_mode", "wal"), ("synchronous", 2)):
            async with database.write() as writing, database.read() as reading:
                for connection in (writing, reading):
                    found = await connection.execute(text(f"PRAGMA {statement}"))
                    assert found.scalar_one() == expected


async def test_connections_that_the_server_closed_are_replaced(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with open_database(postgres_url) as database:
        await database.ping()
        postgres_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'shared'"
        )
        await database.ping()


async def test_a_caller_that_goes_away_at_any_moment_leaves_nothing_locked(
    database: Database, clock: FakeClock
) -> None:
    """Left to the driver, a cancelled transaction holds SQLite's write lock for good."""
    for number in range(60):
        task = asyncio.create_task(add(database, f"cancelled-{number}", clock))
        await asyncio.sleep(number / 10_000)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        began = time.monotonic()
        await add(database, f"added-{number}", clock)
        assert time.monotonic() - began < 2
    assert len([name for name in await names(database) if name.startswith("added")]) == 60


async def test_a_transaction_that_is_cancelled_in_its_body_is_rolled_back(
    database: Database, clock: FakeClock
) -> None:
    inserted = asyncio.Event()

    async def insert_and_wait() -> None:
        async with database.write() as connection:
            await connection.execute(
                insert(tenants).values(id="acme", display_name="", created_at=clock.now())
            )
            inserted.set()
            await asyncio.sleep(30)

    task = asyncio.create_task(insert_and_wait())
    await inserted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await add(database, "globex", clock)
    assert await names(database) == ["globex"]
