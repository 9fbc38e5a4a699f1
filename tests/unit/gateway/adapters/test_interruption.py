"""Whenever a use case is cut off, it can be repeated, and nothing contradicts anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from adapter_store.errors import AdapterStoreError
from gateway.adapters.lifecycle import AdapterState
from gateway.adapters.models import Adapter
from gateway.audit.verify import verify_database
from gateway.errors import NotFoundError
from tests.fakes.packages import ACME, pieces
from tests.unit.gateway.adapters.conftest import ALICE, Stage

pytestmark = pytest.mark.anyio

MOMENTS_S = [0, *(1.6**power / 1000 for power in range(10))]
"""From at once to after 70 ms, when it is done on any machine or at its last step on a slow one."""


async def cut_off(work: Awaitable[Adapter], after_s: float) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.sleep(after_s)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_an_activation_can_be_cut_off_at_any_moment(stage: Stage) -> None:
    for version, moment_s in enumerate(MOMENTS_S, 1):
        adapter = await stage.upload(version=version)
        await cut_off(stage.service.activate(ALICE, adapter.digest), moment_s)
        activated = await stage.service.activate(ALICE, adapter.digest)
        assert activated.state is AdapterState.ACTIVE
        resolved = await stage.service.resolve(ACME, "support")
        assert resolved.digest == adapter.digest
        assert stage.world.loader(now=stage.clock.now).load(resolved.engine_name).tensors
    await verify_database(stage.database)


@pytest.mark.parametrize("end", ["revoke", "delete"])
async def test_a_withdrawal_can_be_cut_off_at_any_moment(stage: Stage, end: str) -> None:
    withdraw: Callable[..., Awaitable[Adapter]] = getattr(stage.service, end)
    for version, moment_s in enumerate(MOMENTS_S, 1):
        adapter = await stage.active(version=version)
        await cut_off(withdraw(ALICE, adapter.digest), moment_s)
        await withdraw(ALICE, adapter.digest)
        await stage.adapters.maintenance.run_once()
        with pytest.raises(NotFoundError):
            await stage.service.resolve(ACME, f"support@{version}")
        assert adapter.engine_name in stage.pool.evicted
        with pytest.raises(AdapterStoreError):
            stage.world.loader(now=stage.clock.now).load(adapter.engine_name)
    if end == "delete":
        assert await stage.objects() == set()
    await verify_database(stage.database)


async def test_an_upload_can_be_cut_off_at_any_moment(stage: Stage) -> None:
    for version, moment_s in enumerate(MOMENTS_S, 1):
        package = stage.pack(version=version)
        await cut_off(stage.service.upload(ALICE, pieces(package)), moment_s)
        stage.clock.advance(10 * 60)
        await stage.adapters.maintenance.run_once()
        rows = {adapter.digest for adapter in await stage.service.list(ALICE)}
        stored = {path.split("/")[3] for path in await stage.world.stored()}
        assert rows == stored
    await verify_database(stage.database)
