"""What is known of the base model, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from gateway.adapters.pool_control import BaseModel
from gateway.errors import UpstreamUnavailableError
from gateway.routing.base_model import FRESH_S, BaseModelDirectory
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.anyio


class Pool:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.id: str | None = "tiny"

    async def base_model(self) -> BaseModel:
        self.asked += 1
        await asyncio.sleep(0)
        if self.id is None:
            raise UpstreamUnavailableError("away")
        return BaseModel(self.id, "f" * 64, 8, 512)


async def test_many_callers_ask_once_a_minute() -> None:
    pool, clock = Pool(), FakeClock()
    directory = BaseModelDirectory(pool, clock)  # type: ignore[arg-type]
    await asyncio.gather(*(directory.current() for _ in range(20)))
    assert pool.asked == 1
    clock.advance(FRESH_S + 1)
    pool.id = "other"
    assert (await directory.current()).id == "other"
    assert pool.asked == 2


async def test_the_last_answer_stands_while_the_pool_is_away() -> None:
    pool, clock = Pool(), FakeClock()
    directory = BaseModelDirectory(pool, clock)  # type: ignore[arg-type]
    await directory.current()
    pool.id = None
    clock.advance(FRESH_S + 1)
    assert (await directory.current()).id == "tiny"
    assert (await directory.current()).id == "tiny"
    assert pool.asked == 2  # not again at once


async def test_a_pool_that_never_answered_is_unavailable() -> None:
    pool = Pool()
    pool.id = None
    directory = BaseModelDirectory(pool, FakeClock())  # type: ignore[arg-type]
    with pytest.raises(UpstreamUnavailableError):
        await directory.current()
