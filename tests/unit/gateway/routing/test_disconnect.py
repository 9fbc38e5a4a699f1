"""Work that ends with its client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.routing.disconnect import ClientGoneError, until_disconnect

pytestmark = pytest.mark.anyio

LAST_BYTE = {"type": "http.response.body", "body": b"x", "more_body": False}


class Client:
    """A client that hangs up when told."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.received: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.received.append(message)


async def test_work_that_ends_returns_its_result() -> None:
    async def work(_: Any) -> int:
        return 7

    client = Client()
    assert await until_disconnect(client.receive, client.send, work) == 7


async def test_an_error_of_the_work_is_raised() -> None:
    async def work(_: Any) -> None:
        raise ZeroDivisionError

    client = Client()
    with pytest.raises(ZeroDivisionError):
        await until_disconnect(client.receive, client.send, work)


async def test_hanging_up_cancels_the_work_and_waits_for_its_end() -> None:
    ended = False

    async def work(_: Any) -> None:
        nonlocal ended
        try:
            client.gone.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended = True

    client = Client()
    with pytest.raises(ClientGoneError):
        await until_disconnect(client.receive, client.send, work)
    assert ended


async def test_what_follows_the_last_byte_is_not_cancelled() -> None:
    settled = False

    async def work(send: Any) -> None:
        nonlocal settled
        await send(LAST_BYTE)
        client.gone.set()  # as a server reports once the answer is complete
        await asyncio.sleep(0.02)
        settled = True

    client = Client()
    await until_disconnect(client.receive, client.send, work)
    assert settled
    assert client.received == [LAST_BYTE]


async def test_cancelling_the_caller_cancels_the_work() -> None:
    cancelled = asyncio.Event()

    async def work(_: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    client = Client()
    task = asyncio.create_task(until_disconnect(client.receive, client.send, work))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()
