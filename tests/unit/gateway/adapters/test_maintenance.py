"""Maintenance renews what is served and removes what nobody accounts for."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from adapter_store.objects.paths import PackagePaths
from adapter_store.types import Digest
from gateway.adapters.opening import run_maintenance
from gateway.errors import StoreUnavailableError
from tests.fakes.packages import ACME
from tests.unit.gateway.adapters.conftest import Stage

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600


async def test_records_are_renewed_days_before_they_expire(stage: Stage) -> None:
    adapter = await stage.active()
    first = await stage.record(adapter)
    assert first is not None
    stage.clock.advance(3 * DAY_S)
    await stage.adapters.maintenance.run_once()
    assert await stage.record(adapter) == first  # not yet
    stage.clock.advance(DAY_S)
    await stage.adapters.maintenance.run_once()
    renewed = await stage.record(adapter)
    assert renewed is not None
    assert renewed.expires_at - first.expires_at == timedelta(days=4)
    assert (renewed.state, renewed.epoch) == ("active", adapter.epoch)


async def test_a_package_without_a_row_is_removed_once_it_is_old(stage: Stage) -> None:
    kept = await stage.active()
    orphan = PackagePaths(ACME, Digest("0" * 64))
    await stage.world.objects.create(orphan.package, b"an upload that was killed")
    await stage.adapters.maintenance.run_once()
    assert orphan.package in await stage.world.stored()  # it may be about to get its row
    stage.clock.advance(10 * 60)
    await stage.adapters.maintenance.run_once()
    stored = await stage.world.stored()
    assert orphan.package not in stored
    assert PackagePaths(ACME, kept.digest).package in stored


async def test_an_upload_that_was_killed_in_staging_is_removed_after_an_hour(stage: Stage) -> None:
    await stage.world.objects.create("staging/123", b"half a package")
    stage.clock.advance(10 * 60)
    await stage.adapters.maintenance.run_once()
    assert "staging/123" in await stage.world.stored()
    stage.clock.advance(3600)
    await stage.adapters.maintenance.run_once()
    assert "staging/123" not in await stage.world.stored()


async def test_a_database_that_is_away_does_not_end_maintenance(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = await stage.active()
    stage.clock.advance(4 * DAY_S)

    def fail() -> None:
        raise StoreUnavailableError("the test took the database away")

    with monkeypatch.context() as patch:
        patch.setattr(stage.database, "read", fail)
        await stage.adapters.maintenance.run_once()
    before = await stage.record(adapter)
    await stage.adapters.maintenance.run_once()
    assert await stage.record(adapter) != before


async def test_maintenance_ends_with_the_service(stage: Stage) -> None:
    async with run_maintenance(stage.adapters):
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert "adapter-maintenance" in names
    assert "adapter-maintenance" not in {task.get_name() for task in asyncio.all_tasks()}
