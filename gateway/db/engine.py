"""Opens the database and gives out bounded transactions on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.db.transaction import Steps, Transaction, transaction
from gateway.errors import InvalidRequestError, StoreUnavailableError

TRANSACTION_TIMEOUT_S = 5.0
"""Longest a transaction may take, waiting for a connection and for locks included."""

POOL_SIZE = 10
_BUSY_TIMEOUT_S = 3  # SQLite's wait for another process's transaction
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
_WRITES = "tensafe_writes"

_T = TypeVar("_T")


class Database:
    """A pool of connections that hands out transactions, each bounded in time.

    Every failure of the database itself leaves as StoreUnavailableError; sqlalchemy's
    IntegrityError passes, for callers to say what it means to them. A caller that is cancelled
    leaves nothing locked.
    """

    def __init__(self, engine: AsyncEngine, sqlite_writer: SqliteWriter | None) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**{_WRITES: True})
        self._sqlite_writer = sqlite_writer
        self._steps = Steps()

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """Give a read transaction."""
        async with _bounded(), transaction(self._engine, None, self._steps) as current:
            yield current

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """Give a write transaction; it is committed unless the body raises."""
        turn = None if self._sqlite_writer is None else self._sqlite_writer.turn
        async with _bounded(), transaction(self._writing, turn, self._steps) as current:
            yield current

    async def transact(self, work: Callable[[Connection], _T]) -> _T:
        """Return what `work` returns in a write transaction; the quickest way to commit.

        On SQLite all of it is one step in the writer's thread: a thread hop for every statement,
        as in `write`, costs ten times what the commit itself does.
        """
        writer = self._sqlite_writer
        async with _bounded():
            step = self._run_sync(work) if writer is None else writer.transact(work)
            return await asyncio.shield(self._steps.start(step))

    async def ping(self) -> None:
        """Return if the database answers; raises StoreUnavailableError."""
        async with self.read() as current:
            await current.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Wait for what is under way, for as long as a transaction may take, and disconnect."""
        await self._steps.finish(TRANSACTION_TIMEOUT_S)
        await self._engine.dispose()
        if self._sqlite_writer is not None:
            await asyncio.to_thread(self._sqlite_writer.close)

    async def _run_sync(self, work: Callable[[Connection], _T]) -> _T:
        async with self._writing.begin() as connection:
            return await connection.run_sync(work)


class SqliteWriter:
    """SQLite's one writer of this process: a turn for each in order, and a thread of its own.

    Without turns, writers would meet in SQLite's busy handler, which sleeps and starves.
    """

    def __init__(self, engine: Engine) -> None:
        self.turn = asyncio.Lock()
        self._engine = engine.execution_options(**{_WRITES: True})
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")

    async def transact(self, work: Callable[[Connection], _T]) -> _T:
        """Return what `work` returns, run in one transaction in the thread."""
        async with self.turn:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._transact, work)

    def close(self) -> None:
        """Wait for what is running and close the connection."""
        self._thread.shutdown()
        self._engine.dispose()

    def _transact(self, work: Callable[[Connection], _T]) -> _T:
        with self._engine.begin() as connection:
            return work(connection)


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Open `sqlite:///PATH` or `postgresql://…` and close it at the end.

    A new SQLite file is readable by its owner alone. Raises InvalidRequestError for a URL of
    another kind. Connects at the first use, not here.
    """
    parsed = _parse(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    engine = _create_sqlite(parsed) if sqlite else _create_postgres(parsed)
    writer = SqliteWriter(_create_sqlite_writer(parsed)) if sqlite else None
    database = Database(engine, writer)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(TRANSACTION_TIMEOUT_S):
            yield
    except IntegrityError:
        raise
    except (SQLAlchemyError, TimeoutError, OSError) as error:
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


def _create_postgres(url: URL) -> AsyncEngine:
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
        url,
        hide_parameters=True,
        pool_size=POOL_SIZE,
        max_overflow=0,
        connect_args={"timeout": _BUSY_TIMEOUT_S},
    )
    _speak_sqlite(engine.sync_engine)
    return engine


def _create_sqlite_writer(url: URL) -> Engine:
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        hide_parameters=True,
        pool_size=1,
        max_overflow=0,
        connect_args={"timeout": _BUSY_TIMEOUT_S, "check_same_thread": False},
    )
    _speak_sqlite(engine)
    return engine


def _speak_sqlite(engine: Engine) -> None:
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)


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
