"""What is remembered is never older than its time, and each key is loaded once."""

from __future__ import annotations

import asyncio

import pytest

from gateway import cache as cache_module
from gateway.cache import ExpiringCache
from gateway.errors import StoreUnavailableError
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.anyio


class Source:
    """What is behind a cache; lets go of loads when told."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {"a": "1"}
        self.loads = 0
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def load(self, key: str) -> str | None:
        self.loads += 1
        value = self.values.get(key)
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return value


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def cache(source: Source, clock: FakeClock) -> ExpiringCache[str, str]:
    return ExpiringCache(source.load, clock, ttl_s=2, max_entries=3)


async def test_a_value_is_loaded_once_until_it_expires(
    cache: ExpiringCache[str, str], source: Source, clock: FakeClock
) -> None:
    for _ in range(3):
        assert await cache.get("a") == "1"
    source.values["a"] = "2"
    clock.advance(1.9)
    assert await cache.get("a") == "1"
    clock.advance(0.1)
    assert await cache.get("a") == "2"
    assert source.loads == 2


async def test_absence_is_remembered_and_pushes_nothing_out(
    cache: ExpiringCache[str, str], source: Source
) -> None:
    await cache.get("a")
    for number in range(10):
        assert await cache.get(f"missing-{number}") is None
    loads = source.loads
    assert await cache.get("a") == "1"
    assert await cache.get("missing-9") is None
    assert source.loads == loads


async def test_what_is_forgotten_while_it_is_loaded_is_not_remembered(
    cache: ExpiringCache[str, str], source: Source
) -> None:
    source.open.clear()
    first = asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0.01)
    source.values["a"] = "2"
    cache.invalidate("a")
    source.open.set()
    assert await first == "1"
    assert await cache.get("a") == "2"


async def test_a_caller_that_goes_away_takes_nothing_from_the_others(
    cache: ExpiringCache[str, str], source: Source
) -> None:
    source.open.clear()
    first, second = (asyncio.create_task(cache.get("a")) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    source.open.set()
    assert await second == "1"
    assert source.loads == 1


async def test_a_failure_reaches_every_caller_and_is_not_remembered(
    cache: ExpiringCache[str, str], source: Source
) -> None:
    source.error = StoreUnavailableError("the test took the source away")
    results = await asyncio.gather(*(cache.get("a") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(each, StoreUnavailableError) for each in results)
    source.error = None
    assert await cache.get("a") == "1"


async def test_a_source_that_hangs_is_not_waited_for(
    cache: ExpiringCache[str, str], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "LOAD_TIMEOUT_S", 0.05)
    source.open.clear()
    with pytest.raises(StoreUnavailableError):
        await cache.get("a")
    source.open.set()
