"""Work that ends when the client hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.types import Message, Receive, Send

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """The client hung up, or reads so slowly that it was given up. Nobody is left to answer."""


Work = Callable[[Send], Coroutine[Any, Any, Result]]
"""Answers through the `send` that it is given."""


async def until_disconnect(receive: Receive, send: Send, work: Work[Result]) -> Result:
    """Return what `work` returns, or cancel it and raise ClientGoneError when the client hangs up.

    The request's body must have been read. However this ends, `work` has ended before it returns,
    with its `finally` blocks run. Hanging up after the last byte of the answer is no hanging up.
    """
    answered = False

    async def noting_send(message: Message) -> None:
        nonlocal answered
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            answered = True
        await send(message)

    task = asyncio.ensure_future(work(noting_send))
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if answered:
            await asyncio.wait((task,))
    finally:
        watcher.cancel()
        task.cancel()  # does nothing to a task that is done
        await asyncio.gather(task, watcher, return_exceptions=True)
    if task.cancelled():
        raise ClientGoneError
    return task.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
