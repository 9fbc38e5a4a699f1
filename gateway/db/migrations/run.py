"""Runs alembic from inside the program: no ini file, no second way to name the database."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection

from gateway.db.engine import Database
from gateway.errors import StoreUnavailableError

_LOCK = 0x7E45AFE  # any number that nobody else locks


async def migrate(database: Database) -> None:
    """Bring the schema to this version's, in one transaction; several callers at once are fine.

    Raises StoreUnavailableError.
    """
    async with database.write() as connection:
        if database.dialect == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        await connection.run_sync(_upgrade)


async def require_current(database: Database) -> None:
    """Return if the schema is this version's; raises StoreUnavailableError saying what to run."""
    async with database.read() as connection:
        found = await connection.run_sync(_revision)
    expected = ScriptDirectory.from_config(_config()).get_current_head()
    if found != expected:
        raise StoreUnavailableError(
            f"the database is at revision {found}, this version needs {expected}: "
            "run `tensafe gateway migrate`"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
