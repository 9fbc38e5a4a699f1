"""Transactions whose steps are never cut off in the middle, whoever goes away.

A client that hangs up cancels its request anywhere, also inside a database driver, and drivers do
not survive that: aiosqlite leaves a connection behind that holds the write lock, psycopg waits
seconds for the server to confirm. So every step is a task of its own. Cancelling the wait for it
lets the step end in the background, and then rolls back; nobody waits for that but the next in
turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import CursorResult, Executable
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_T = TypeVar("_T")


class Steps:
    """The steps that are under way, so that whoever closes the database can wait for them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, step: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Start a step that runs to its end."""
        task = asyncio.create_task(step, name="database-step")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def finish(self, timeout_s: float) -> None:
        """Wait for what is under way, but not for a database that hangs."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it has it


class Transaction:
    """A connection inside a transaction (see `Database.read` and `Database.write`)."""

    def __init__(self, engine: AsyncEngine, turn: asyncio.Lock | None, steps: Steps) -> None:
        self._engine = engine
        self._turn = turn
        self._steps = steps
        self._connection: AsyncConnection | None = None
        self._has_turn = False
        self._last: asyncio.Task[Any] | None = None

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Execute a statement; its rows are all fetched already."""

        async def work() -> CursorResult[Any]:
            return await self._open.execute(statement, parameters)

        return await asyncio.shield(self._step(work))

    async def run_sync(self, work: Callable[[Connection], _T]) -> _T:
        """Return what `work` returns when it is called with a plain connection."""

        async def run() -> _T:
            return await self._open.run_sync(work)

        return await asyncio.shield(self._step(run))

    @property
    def _open(self) -> AsyncConnection:
        if self._connection is None:
            raise RuntimeError("the transaction has not begun, or has ended")
        return self._connection

    def _step(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> asyncio.Task[_T]:
        """Start `work` behind the step before it, which may have been left behind."""
        previous = self._last

        async def run() -> _T:
            if previous is not None and not previous.done():
                await asyncio.wait([previous])
            return await work()

        task = self._steps.start(run())
        self._last = task
        return task

    async def _begin(self) -> None:
        if self._turn is not None:
            await self._turn.acquire()
            self._has_turn = True
        self._connection = await self._engine.connect()
        await self._connection.begin()

    async def _end(self, *, commit: bool) -> None:
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                await _finish(connection, commit=commit)
        finally:
            if self._turn is not None and self._has_turn:
                self._turn.release()


async def _finish(connection: AsyncConnection, *, commit: bool) -> None:
    try:
        await (connection.commit() if commit else connection.rollback())
    finally:
        await connection.close()


@asynccontextmanager
async def transaction(
    engine: AsyncEngine, turn: asyncio.Lock | None, steps: Steps
) -> AsyncIterator[Transaction]:
    """Give a transaction that is committed unless the body raises; `turn` is held throughout."""
    current = Transaction(engine, turn, steps)
    try:
        await asyncio.shield(current._step(current._begin))
        yield current
    except asyncio.CancelledError:
        current._step(lambda: current._end(commit=False))
        raise
    except BaseException:
        await asyncio.shield(current._step(lambda: current._end(commit=False)))
        raise
    await asyncio.shield(current._step(lambda: current._end(commit=True)))
