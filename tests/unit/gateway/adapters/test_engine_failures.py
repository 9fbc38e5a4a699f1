"""An engine name under which an engine failed is never used again."""

from __future__ import annotations

import pytest

from tests.fakes.packages import ACME
from tests.unit.gateway.adapters.conftest import ALICE, Stage

pytestmark = pytest.mark.anyio


async def test_a_failure_gives_the_adapter_a_new_engine_name_that_loads(stage: Stage) -> None:
    await stage.active()
    failed = await stage.service.resolve(ACME, "support")
    await stage.service.report_engine_failure(failed)
    renewed = await stage.service.resolve(ACME, "support")
    assert renewed.engine_name.epoch == failed.engine_name.epoch + 1
    assert stage.world.loader(now=stage.clock.now).load(renewed.engine_name).tensors
    assert stage.pool.evicted == [failed.engine_name]
    assert '"adapter.engine_failed"' in await stage.audited()


async def test_many_reports_of_one_failure_are_one(stage: Stage) -> None:
    await stage.active()
    failed = await stage.service.resolve(ACME, "support")
    for _ in range(3):
        await stage.service.report_engine_failure(failed)
    stage.clock.advance(60)
    await stage.service.report_engine_failure(failed)
    renewed = await stage.service.resolve(ACME, "support")
    assert renewed.engine_name.epoch == failed.engine_name.epoch + 1


async def test_an_adapter_that_always_fails_is_renewed_only_now_and_then(stage: Stage) -> None:
    await stage.active()
    epochs = []
    for _ in range(4):
        resolved = await stage.service.resolve(ACME, "support")
        epochs.append(resolved.engine_name.epoch)
        await stage.service.report_engine_failure(resolved)
        stage.clock.advance(3)
    assert epochs == [1, 2, 2, 3]


async def test_a_failure_of_what_was_revoked_meanwhile_changes_nothing(stage: Stage) -> None:
    await stage.active()
    failed = await stage.service.resolve(ACME, "support")
    revoked = await stage.service.revoke(ALICE, "support")
    await stage.service.report_engine_failure(failed)
    assert await stage.service.get(ALICE, revoked.digest) == revoked
