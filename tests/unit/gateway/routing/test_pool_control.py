"""The pool's control socket: what is asked, and what each answer means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_store.types import Digest, EngineName, TenantId
from gateway.adapters.pool_control import AdmissionRefusedError, PoolControl
from gateway.errors import UpstreamProtocolError, UpstreamUnavailableError
from gateway.routing.pool_control import UnixPoolControl, open_pool_control
from tests.fakes.pool import FINGERPRINT, FakePoolProcess
from tests.fakes.server import served_on_socket

pytestmark = pytest.mark.anyio

ACME, DIGEST = TenantId("acme"), Digest("0a" * 32)
ENGINE_NAME = EngineName(ACME, DIGEST, 3)

CALLS: dict[str, Callable[[UnixPoolControl], Awaitable[Any]]] = {
    "/base-model": lambda control: control.base_model(),
    "/ingest-keys/acme": lambda control: control.ingest_key(ACME),
    "/adapters/admit": lambda control: control.admit(ACME, DIGEST),
    "/adapters/evict": lambda control: control.evict(ENGINE_NAME),
    "/health": lambda control: control.check(),
}


@pytest.fixture
def pool() -> FakePoolProcess:
    return FakePoolProcess()


@pytest.fixture
async def control(pool: FakePoolProcess, tmp_path: Path) -> AsyncIterator[UnixPoolControl]:
    path = tmp_path / "c.sock"
    with served_on_socket(pool, path):
        async with open_pool_control(path) as control:
            yield control


async def test_each_call_asks_for_what_it_should(
    pool: FakePoolProcess, control: UnixPoolControl
) -> None:
    port: PoolControl = control  # the protocol is met
    model = await port.base_model()
    assert (model.id, model.fingerprint) == ("tiny", FINGERPRINT)
    assert (await port.ingest_key(ACME)).algorithm == "hpke-xwing"
    assert await port.admit(ACME, DIGEST) == {"modules": 2}
    await port.evict(ENGINE_NAME)
    await control.check()
    assert pool.asked == [
        ("GET", "/base-model", None),
        ("GET", "/ingest-keys/acme", None),
        ("POST", "/adapters/admit", {"tenant": "acme", "digest": DIGEST}),
        ("POST", "/adapters/evict", {"engine_name": str(ENGINE_NAME)}),
        ("GET", "/health", None),
    ]


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((503, {"status": "starting", "reason": "loading"}), UpstreamUnavailableError),
        ((500, b"oops"), UpstreamUnavailableError),
        ((404, {"error": {"code": "x", "message": "y"}}), UpstreamProtocolError),
        ((200, b"not json"), UpstreamProtocolError),
        ((200, b"\xff"), UpstreamProtocolError),
        ((200, []), UpstreamProtocolError),
        ((200, {"other": 1}), UpstreamProtocolError),
        ((200, b"[" * 9000), UpstreamProtocolError),
        ((302, {}), UpstreamProtocolError),
    ],
)
async def test_other_answers_are_errors(
    pool: FakePoolProcess,
    control: UnixPoolControl,
    path: str,
    answer: tuple[int, Any],
    expected: type[Exception],
) -> None:
    pool.answers[path] = answer
    with pytest.raises(expected):
        await CALLS[path](control)


async def test_a_refused_adapter_keeps_code_and_reason(
    pool: FakePoolProcess, control: UnixPoolControl
) -> None:
    error = {"error": {"code": "invalid_tensors", "message": "rank 64 is above 8"}}
    pool.answers["/adapters/admit"] = (422, error)
    with pytest.raises(AdmissionRefusedError, match="rank 64 is above 8") as caught:
        await control.admit(ACME, DIGEST)
    assert caught.value.reason_code == "invalid_tensors"


async def test_an_adapter_that_stays_resident_is_not_evicted(
    pool: FakePoolProcess, control: UnixPoolControl
) -> None:
    pool.answers["/adapters/evict"] = (200, {"resident": True})
    with pytest.raises(UpstreamProtocolError):
        await control.evict(ENGINE_NAME)


async def test_nobody_at_the_socket_is_unavailable(tmp_path: Path) -> None:
    async with open_pool_control(tmp_path / "none.sock") as control:
        for call in CALLS.values():
            with pytest.raises(UpstreamUnavailableError):
                await call(control)
