"""Opens the database and gives out bounded transactions on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event, make_url, text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.errors import InvalidRequestError, StoreUnavailableError

TRANSACTION_TIMEOUT_S = 5.0
"""Longest a transaction may take, waiting for a connection and for locks included."""

POOL_SIZE = 10
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
_WRITES = "tensafe_writes"


class Database:
    """A pool of connections that hands out transactions, each bounded in time.

    Every failure of the database itself leaves as StoreUnavailableError; sqlalchemy's
    IntegrityError passes, for callers to say what it means to them.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._readers = engine.execution_options()
        self._writers = engine.execution_options(**{_WRITES: True})
        # SQLite has one writer; in-process writers queue here in order, for its own busy
        # handler sleeps and starves.
        self._one_writer = asyncio.Lock() if engine.dialect.name == "sqlite" else None

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection in a read transaction."""
        async with _bounded(), self._readers.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection in a write transaction; commits unless the body raises."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_bounded())
            if self._one_writer is not None:
                await stack.enter_async_context(self._one_writer)
            yield await stack.enter_async_context(self._writers.begin())

    async def ping(self) -> None:
        """Return if the database answers; raises StoreUnavailableError."""
        async with self.read() as connection:
            await connection.execute(text("SELECT 1"))


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Open `sqlite:///PATH` or `postgresql://…` and close it at the end.

    A new SQLite file is readable by its owner alone. Raises InvalidRequestError for a URL of
    another kind. Connects at the first use, not here.
    """
    engine = _create_engine(_parse(url))
    try:
        yield Database(engine)
    finally:
        await engine.dispose()


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(TRANSACTION_TIMEOUT_S):
            yield
    except IntegrityError:
        raise
    except (DBAPIError, PoolTimeoutError, TimeoutError, OSError) as error:
        raise StoreUnavailableError(f"the database failed: {type(error).__name__}") from error


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        driver = _DRIVERS[parsed.get_backend_name()]
    except (ArgumentError, KeyError) as error:
        raise InvalidRequestError(
            "expected a database URL such as sqlite:///PATH or postgresql://USER@HOST/NAME"
        ) from error
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InvalidRequestError("expected a file: an SQLite database in memory is not shared")
    return parsed.set(drivername=driver)


def _create_engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        return _create_sqlite(url)
    options = f"-c statement_timeout={int(TRANSACTION_TIMEOUT_S * 1000)}"
    return create_async_engine(
        url,
        hide_parameters=True,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_pre_ping=True,
        # A peer that vanished without a word is noticed by the kernel.
        connect_args={"connect_timeout": 2, "tcp_user_timeout": 5000, "options": options},
    )


def _create_sqlite(url: URL) -> AsyncEngine:
    path = Path(str(url.database))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_async_engine(
        url, hide_parameters=True, pool_size=POOL_SIZE, max_overflow=0, connect_args={"timeout": 3}
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails with SQLITE_BUSY at once, whatever
    # the timeout, when another process wrote in between: writers take the lock first.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
