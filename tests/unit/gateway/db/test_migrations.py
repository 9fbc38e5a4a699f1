"""Migrations build what the tables say, once, from wherever they are started."""

from __future__ import annotations

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.engine import Connection

from gateway.db.engine import Database, open_database
from gateway.db.migrations import migrate, require_current
from gateway.db.tables import metadata
from gateway.errors import StoreUnavailableError

pytestmark = pytest.mark.anyio


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


async def test_migrations_build_exactly_the_declared_tables(database: Database) -> None:
    async with database.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_table_that_differs_is_noticed(empty_database_url: str) -> None:
    async with open_database(empty_database_url) as database:
        await migrate(database)
        async with database.write() as connection:
            await connection.execute(text("ALTER TABLE tenants ADD COLUMN surprise INTEGER"))
        async with database.read() as connection:
            assert await connection.run_sync(differences) != []


async def test_migrating_twice_changes_nothing(database: Database) -> None:
    await migrate(database)
    await require_current(database)


async def test_replicas_that_migrate_at_the_same_moment_do_it_once(empty_database_url: str) -> None:
    async def one_replica() -> None:
        async with open_database(empty_database_url) as database:
            await migrate(database)
            await require_current(database)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(one_replica())


async def test_a_database_without_tables_is_refused_with_the_command_to_run(
    empty_database_url: str,
) -> None:
    async with open_database(empty_database_url) as database:
        with pytest.raises(StoreUnavailableError, match="tensafe gateway migrate"):
            await require_current(database)
