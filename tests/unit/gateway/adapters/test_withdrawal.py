"""What is revoked, retired or deleted is out of service at once, everywhere within seconds."""

from __future__ import annotations

import pytest

from adapter_store.errors import AdapterStoreError, ConflictError, StorageUnavailableError
from gateway.adapters.lifecycle import AdapterState
from gateway.audit.verify import verify_database
from gateway.errors import (
    InvalidRequestError,
    LifecycleError,
    NotFoundError,
    UpstreamUnavailableError,
)
from tests.fakes.packages import ACME
from tests.unit.gateway.adapters.conftest import ALIAS_TTL_S, ALICE, Stage

pytestmark = pytest.mark.anyio


async def test_a_revoked_adapter_is_gone_for_callers_engines_and_the_pool(stage: Stage) -> None:
    adapter = await stage.active()
    await stage.service.resolve(ACME, "support")
    revoked = await stage.service.revoke(ALICE, "support", reason="key was stolen")
    assert (revoked.state, revoked.reason) == (AdapterState.REVOKED, "key was stolen")
    for name in ("support", "support@1"):
        with pytest.raises(NotFoundError):
            await stage.service.resolve(ACME, name)
    assert stage.pool.evicted == [adapter.engine_name]
    for name in (adapter.engine_name, revoked.engine_name):
        with pytest.raises(AdapterStoreError):
            stage.world.loader(now=stage.clock.now).load(name)
    with pytest.raises(LifecycleError, match="cannot activate an adapter that is revoked"):
        await stage.service.activate(ALICE, adapter.digest)


async def test_another_replica_forgets_a_revoked_adapter_within_the_ttl(stage: Stage) -> None:
    await stage.active()
    other = stage.replica().service
    await other.resolve(ACME, "support")
    await stage.service.revoke(ALICE, "support")
    await other.resolve(ACME, "support")  # the negative control: it does remember
    stage.clock.advance(ALIAS_TTL_S)
    with pytest.raises(NotFoundError):
        await other.resolve(ACME, "support")


async def test_the_reason_stays_out_of_the_audit_log(stage: Stage) -> None:
    await stage.active()
    await stage.service.revoke(ALICE, "support", reason="a free text")
    audited = await stage.audited()
    assert '"adapter.revoked"' in audited
    assert "free text" not in audited
    with pytest.raises(InvalidRequestError):
        await stage.service.revoke(ALICE, "support", reason="x" * 501)


async def test_revoking_again_changes_nothing_and_is_not_audited_again(stage: Stage) -> None:
    await stage.active()
    first = await stage.service.revoke(ALICE, "support@1", reason="first")
    head = await stage.audit.head()
    assert await stage.service.revoke(ALICE, "support@1", reason="second") == first
    assert await stage.audit.head() == head


async def test_revoking_does_not_wait_for_a_pool_that_is_away(stage: Stage) -> None:
    adapter = await stage.active()
    stage.pool.outage = UpstreamUnavailableError("the pool is away")
    await stage.service.revoke(ALICE, "support")
    with pytest.raises(NotFoundError):
        await stage.service.resolve(ACME, "support")
    await stage.adapters.maintenance.run_once()
    assert stage.pool.evicted == []
    stage.pool.outage = None
    await stage.adapters.maintenance.run_once()
    assert stage.pool.evicted == [adapter.engine_name]
    await stage.adapters.maintenance.run_once()
    assert len(stage.pool.evicted) == 1


async def test_a_record_that_could_not_be_written_is_written_by_maintenance(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = await stage.active()

    async def fail(path: str, data: bytes) -> None:
        raise StorageUnavailableError("the test took the store away")

    with monkeypatch.context() as patch:
        patch.setattr(stage.world.objects, "replace", fail)
        await stage.service.revoke(ALICE, "support")
    assert (await stage.record(adapter)).state == "active"  # type: ignore[union-attr]
    await stage.adapters.maintenance.run_once()
    assert (await stage.record(adapter)).state == "revoked"  # type: ignore[union-attr]


async def test_a_record_that_was_written_over_a_revocation_does_not_stay(stage: Stage) -> None:
    """A gateway that was killed between its record and its transaction had the last word."""
    adapter = await stage.active()
    await stage.service.revoke(ALICE, "support")
    await stage.world.record(adapter.digest, "active", epoch=adapter.epoch)
    await stage.adapters.maintenance.run_once()
    stage.clock.advance(61)
    await stage.adapters.maintenance.run_once()
    assert (await stage.record(adapter)).state == "revoked"  # type: ignore[union-attr]


async def test_a_retired_adapter_comes_back_under_another_engine_name(stage: Stage) -> None:
    adapter = await stage.active()
    retired = await stage.service.retire(ALICE, "support")
    assert retired.state is AdapterState.RETIRED
    with pytest.raises(NotFoundError):
        await stage.service.resolve(ACME, "support@1")
    assert stage.pool.evicted == [adapter.engine_name]
    again = await stage.service.activate(ALICE, "support@1")
    assert again.engine_name != adapter.engine_name
    assert again.generation == 3  # the name moved to it, away, and back
    assert stage.world.loader(now=stage.clock.now).load(again.engine_name).tensors


async def test_only_what_is_served_can_be_retired(stage: Stage) -> None:
    await stage.upload()
    with pytest.raises(LifecycleError, match="cannot retire an adapter that is uploaded"):
        await stage.service.retire(ALICE, "support")


async def test_withdrawing_the_served_version_serves_no_other_in_its_place(stage: Stage) -> None:
    await stage.active()
    await stage.active(version=2)
    await stage.service.retire(ALICE, "support")
    with pytest.raises(NotFoundError):
        await stage.service.resolve(ACME, "support")
    assert (await stage.service.resolve(ACME, "support@1")).version == 1


async def test_a_deleted_adapter_leaves_no_object_and_no_way_back(stage: Stage) -> None:
    adapter = await stage.active()
    deleted = await stage.service.delete(ALICE, "support")
    assert deleted.state is AdapterState.SHREDDED
    assert await stage.objects() == set()
    assert await stage.service.list(ALICE) == []
    assert stage.pool.evicted == [adapter.engine_name]
    with pytest.raises(LifecycleError):
        await stage.service.activate(ALICE, adapter.digest)
    again = await stage.service.delete(ALICE, adapter.digest)
    assert again.state is AdapterState.SHREDDED


async def test_deleting_destroys_the_data_key_even_when_the_pool_is_away(stage: Stage) -> None:
    await stage.active()
    stage.pool.outage = UpstreamUnavailableError("the pool is away")
    await stage.service.delete(ALICE, "support")
    assert await stage.objects() == {"package.tssp", "activation.json"}
    stage.pool.outage = None
    await stage.adapters.maintenance.run_once()
    assert await stage.objects() == set()


async def test_every_withdrawal_is_in_one_verified_chain(stage: Stage) -> None:
    await stage.active()
    await stage.service.retire(ALICE, "support")
    await stage.service.activate(ALICE, "support")
    await stage.service.revoke(ALICE, "support")
    await stage.service.delete(ALICE, "support")
    head = await verify_database(stage.database)
    assert head == await stage.audit.head()
    audited = await stage.audited()
    for kind in ("uploaded", "activated", "retired", "revoked", "deleted"):
        assert f'"kind":"adapter.{kind}"' in audited
    assert ConflictError.code not in audited
