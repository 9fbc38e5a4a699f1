"""A closed-loop load: so many connections, each sending its next request after the last answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp


@dataclass(frozen=True, slots=True)
class Target:
    """What is loaded: where it listens, what is sent, and what an answer must contain."""

    name: str
    base_url: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    expected: bytes
    unix_socket: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One run's answers; latencies in milliseconds, sorted."""

    requests_per_s: float
    latencies_ms: list[float]

    def percentile(self, percent: float) -> float:
        """Return the latency in ms that `percent` of the requests stayed under."""
        index = min(len(self.latencies_ms) - 1, int(len(self.latencies_ms) * percent / 100))
        return self.latencies_ms[index]


class WrongAnswerError(Exception):
    """The target answered something else than it should: its speed means nothing."""


async def measure(target: Target, *, connections: int, seconds: float) -> Measured:
    """Load `target` for `seconds` after a short warm-up; raises WrongAnswerError."""
    connector = (
        aiohttp.UnixConnector(target.unix_socket, limit=0)
        if target.unix_socket
        else aiohttp.TCPConnector(limit=0)
    )
    async with aiohttp.ClientSession(target.base_url, connector=connector) as session:
        await _run(session, target, connections, seconds=min(1.0, seconds / 4))
        started = time.perf_counter()
        latencies = await _run(session, target, connections, seconds=seconds)
        elapsed = time.perf_counter() - started
    return Measured(len(latencies) / elapsed, sorted(latencies))


async def _run(
    session: aiohttp.ClientSession, target: Target, connections: int, *, seconds: float
) -> list[float]:
    deadline = time.perf_counter() + seconds
    runs = (_one_connection(session, target, deadline) for _ in range(connections))
    return [latency for latencies in await asyncio.gather(*runs) for latency in latencies]


async def _one_connection(
    session: aiohttp.ClientSession, target: Target, deadline: float
) -> list[float]:
    latencies = []
    while (started := time.perf_counter()) < deadline:
        async with session.post(target.path, data=target.body, headers=target.headers) as answer:
            body = await answer.read()
        if answer.status != 200 or target.expected not in body:
            raise WrongAnswerError(f"{target.name}: HTTP {answer.status}, {body[:200]!r}")
        latencies.append((time.perf_counter() - started) * 1000)
    return latencies
