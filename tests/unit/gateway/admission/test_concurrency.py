"""Permits: bounded, in order, and given back whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admission.concurrency import Permits
from gateway.errors import OverloadedError

pytestmark = pytest.mark.anyio


def permits(*, concurrent: int = 1, queued: int = 4, timeout_s: float = 5.0) -> Permits:
    return Permits(
        max_concurrent=concurrent,
        max_queued=queued,
        queue_timeout_s=timeout_s,
        on_depth=depths.append,
    )


depths: list[int] = []


@pytest.fixture(autouse=True)
def no_depths_yet() -> None:
    depths.clear()


async def test_never_more_than_the_limit_are_inside() -> None:
    house = permits(concurrent=3, queued=100)
    inside = most = 0

    async def visit() -> None:
        nonlocal inside, most
        async with house.hold():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*(visit() for _ in range(40)))
    assert most == 3
    assert (max(depths), depths[-1]) == (37, 0)


async def test_those_who_wait_enter_in_order() -> None:
    house = permits(queued=10)
    entered: list[int] = []

    async def visit(number: int) -> None:
        async with house.hold():
            entered.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(visit(number) for number in range(8)))
    assert entered == list(range(8))


async def test_beyond_the_queue_nobody_waits() -> None:
    house = permits(queued=0)
    async with house.hold():
        with pytest.raises(OverloadedError):
            async with house.hold():
                pass
    assert depths == []


async def test_a_wait_that_takes_too_long_ends() -> None:
    house = permits(timeout_s=0.01)
    async with house.hold():
        with pytest.raises(OverloadedError):
            async with house.hold():
                pass
    assert depths == [1, 0]


async def test_leaving_the_queue_or_failing_inside_gives_everything_back() -> None:
    house = permits()

    async def fail_inside() -> None:
        async with house.hold():
            waiting = asyncio.create_task(_enter(house))
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_inside()
    await asyncio.wait_for(_enter(house), 1)
    assert depths == [1, 0]


async def _enter(house: Permits) -> None:
    async with house.hold():
        pass
