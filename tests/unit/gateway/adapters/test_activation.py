"""Adapters come into service in steps, and whatever fails in between can be repeated."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from adapter_store.errors import RecordExpiredError, StorageUnavailableError, WrongEpochError
from adapter_store.types import EngineName
from gateway.adapters.lifecycle import AdapterState
from gateway.adapters.pool_control import AdmissionRefusedError
from gateway.audit.log import SqlAuditLog
from gateway.audit.verify import verify_database
from gateway.errors import (
    AuditUnavailableError,
    ConflictError,
    LifecycleError,
    NotFoundError,
    UpstreamUnavailableError,
)
from tests.fakes.packages import ACME, pieces
from tests.unit.gateway.adapters.conftest import ALICE, Stage

pytestmark = pytest.mark.anyio


async def test_an_uploaded_adapter_cannot_be_called_before_it_is_activated(stage: Stage) -> None:
    uploaded = await stage.upload()
    assert uploaded.state is AdapterState.UPLOADED
    assert not uploaded.served
    assert await stage.objects() == {"package.tssp", "recipients.json"}
    for name in ("support", "support@1"):
        with pytest.raises(NotFoundError):
            await stage.service.resolve(ACME, name)


async def test_an_activated_adapter_is_loaded_by_the_name_that_it_resolves_to(stage: Stage) -> None:
    adapter = await stage.active()
    assert adapter.state is AdapterState.ACTIVE
    assert adapter.generation == 1
    for name in ("support", "support@1"):
        resolved = await stage.service.resolve(ACME, name)
        assert (resolved.alias, resolved.digest, resolved.version) == (name, adapter.digest, 1)
        loaded = stage.world.loader(now=stage.clock.now).load(resolved.engine_name)
        assert loaded.tensors
    with pytest.raises(WrongEpochError):  # the negative control: not by any other name
        stage.world.loader(now=stage.clock.now).load(
            EngineName(ACME, adapter.digest, adapter.epoch + 1)
        )
    assert await stage.objects() == {"package.tssp", "data_key.json", "activation.json"}


async def test_a_warm_name_needs_no_database(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.active()
    resolved = await stage.service.resolve(ACME, "support")
    with pytest.raises(NotFoundError):
        await stage.service.resolve(ACME, "missing")

    def forbidden() -> None:
        pytest.fail("the database was read")

    monkeypatch.setattr(stage.database, "read", forbidden)
    assert await stage.service.resolve(ACME, "support") == resolved
    with pytest.raises(NotFoundError):  # what does not exist is remembered as well
        await stage.service.resolve(ACME, "missing")


async def test_the_activation_record_expires_after_a_week(stage: Stage) -> None:
    adapter = await stage.active()
    record = await stage.record(adapter)
    assert record is not None
    assert record.state == "active"
    assert record.epoch == adapter.epoch
    assert record.publisher == stage.world.publisher.public_key
    assert record.expires_at - record.issued_at == timedelta(days=7)


async def test_activating_again_changes_nothing(stage: Stage) -> None:
    first = await stage.active()
    head = await stage.audit.head()
    again = await stage.service.activate(ALICE, "support@1")
    assert again == first
    assert await stage.audit.head() == head


async def test_a_new_version_takes_the_name_and_the_old_one_stays_callable(stage: Stage) -> None:
    old = await stage.active()
    await stage.service.resolve(ACME, "support")
    new = await stage.active(version=2)
    assert (await stage.service.resolve(ACME, "support")).digest == new.digest
    assert (await stage.service.resolve(ACME, "support@1")).digest == old.digest
    back = await stage.service.activate(ALICE, "support@1")
    assert back.generation == 3
    assert (await stage.service.resolve(ACME, "support")).digest == old.digest
    assert [each.version for each in await stage.service.served(ACME)] == [1]


async def test_a_name_moves_only_from_where_the_caller_saw_it(stage: Stage) -> None:
    await stage.active()
    second = await stage.upload(version=2)
    with pytest.raises(ConflictError, match="expected 'support' at generation 7, it is at 1"):
        await stage.service.activate(ALICE, second.digest, expected_generation=7)
    assert (await stage.service.activate(ALICE, second.digest, expected_generation=1)).served


async def test_of_two_activations_at_once_one_wins_and_the_other_leaves_nothing(
    stage: Stage,
) -> None:
    first, second = await stage.upload(), await stage.upload(version=2)

    async def somebody_else_is_quicker() -> None:
        stage.pool.before_admit = None
        await stage.replica().service.activate(ALICE, second.digest)

    stage.pool.before_admit = somebody_else_is_quicker
    with pytest.raises(ConflictError):
        await stage.service.activate(ALICE, first.digest)
    assert (await stage.service.resolve(ACME, "support")).digest == second.digest
    assert (await stage.service.get(ALICE, first.digest)).state is AdapterState.UPLOADED
    assert await stage.record(first) is None
    assert (await stage.service.activate(ALICE, first.digest)).served


async def test_the_same_activation_twice_at_once_is_one(stage: Stage) -> None:
    adapter = await stage.upload()

    async def somebody_else_is_quicker() -> None:
        stage.pool.before_admit = None
        await stage.replica().service.activate(ALICE, adapter.digest)

    stage.pool.before_admit = somebody_else_is_quicker
    assert (await stage.service.activate(ALICE, adapter.digest)).generation == 1
    assert (await stage.audited()).count('"adapter.activated"') == 1


async def test_an_adapter_that_is_revoked_while_it_is_admitted_never_comes_into_service(
    stage: Stage,
) -> None:
    adapter = await stage.upload()

    async def revoke() -> None:
        await stage.replica().service.revoke(ALICE, adapter.digest)

    stage.pool.before_admit = revoke
    with pytest.raises(LifecycleError):
        await stage.service.activate(ALICE, adapter.digest)
    record = await stage.record(adapter)
    assert record is not None
    assert record.state == "revoked"
    with pytest.raises(NotFoundError):
        await stage.service.resolve(ACME, "support")


async def test_an_adapter_that_is_deleted_while_it_is_admitted_leaves_no_object(
    stage: Stage,
) -> None:
    adapter = await stage.upload()

    async def delete() -> None:
        await stage.replica().service.delete(ALICE, adapter.digest)

    stage.pool.before_admit = delete
    with pytest.raises(LifecycleError):
        await stage.service.activate(ALICE, adapter.digest)
    assert await stage.objects() == set()
    assert (await stage.service.get(ALICE, adapter.digest)).state is AdapterState.SHREDDED


async def test_a_refused_adapter_is_rejected_with_its_reason_and_leaves_no_object(
    stage: Stage,
) -> None:
    adapter = await stage.upload()
    base = stage.world.base_model
    stage.world.base_model = replace(base, shapes=dict.fromkeys(base.shapes, (8, 8)))
    with pytest.raises(AdmissionRefusedError) as refused:
        await stage.service.activate(ALICE, "support")
    rejected = await stage.service.get(ALICE, "support@1")
    assert rejected.state is AdapterState.REJECTED
    assert rejected.reason is not None
    assert rejected.reason.startswith(refused.value.reason_code)
    assert await stage.objects() == set()
    assert '"adapter.rejected"' in await stage.audited()
    with pytest.raises(LifecycleError, match="cannot activate an adapter that is rejected"):
        await stage.service.activate(ALICE, adapter.digest)


async def test_a_pool_whose_clock_is_wrong_rejects_no_adapter(stage: Stage) -> None:
    await stage.upload()
    stage.pool.refusal = AdmissionRefusedError(RecordExpiredError.code, "refused by the test")
    with pytest.raises(AdmissionRefusedError):
        await stage.service.activate(ALICE, "support")
    assert (await stage.service.get(ALICE, "support")).state is AdapterState.UPLOADED
    stage.pool.refusal = None
    assert (await stage.service.activate(ALICE, "support")).served


async def test_a_rejected_version_can_be_published_again_but_not_the_same_package(
    stage: Stage,
) -> None:
    package = stage.pack()
    await stage.service.upload(ALICE, pieces(package))
    stage.pool.refusal = AdmissionRefusedError("tensor_file", "refused by the test")
    with pytest.raises(AdmissionRefusedError):
        await stage.service.activate(ALICE, "support")
    stage.pool.refusal = None
    with pytest.raises(ConflictError):
        await stage.service.upload(ALICE, pieces(package))
    assert await stage.objects() == set()
    assert (await stage.active()).state is AdapterState.ACTIVE


async def test_an_activation_that_the_pool_cannot_check_now_can_be_repeated(stage: Stage) -> None:
    adapter = await stage.upload()
    stage.pool.outage = UpstreamUnavailableError("the pool is away")
    with pytest.raises(UpstreamUnavailableError):
        await stage.service.activate(ALICE, "support")
    assert (await stage.service.get(ALICE, "support")).state is AdapterState.UPLOADED
    stage.pool.outage = None
    assert (await stage.service.activate(ALICE, "support")).digest == adapter.digest


async def test_an_abandoned_activation_is_tidied_up_after_minutes(stage: Stage) -> None:
    adapter = await stage.upload()
    stage.pool.outage = UpstreamUnavailableError("the pool is away")
    with pytest.raises(UpstreamUnavailableError):
        await stage.service.activate(ALICE, "support")
    stage.pool.outage = None
    await stage.adapters.maintenance.run_once()
    record = await stage.record(adapter)
    assert record is not None
    assert record.state == "admitting"  # whoever is at it still has time
    stage.clock.advance(601)
    await stage.adapters.maintenance.run_once()
    assert await stage.record(adapter) is None


@pytest.mark.parametrize("failing_write", [1, 2])
async def test_a_store_that_fails_at_any_record_leaves_an_activation_to_repeat(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, failing_write: int
) -> None:
    await stage.upload()
    replace, writes = stage.world.objects.replace, 0

    async def fail_once(path: str, data: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes == failing_write:
            raise StorageUnavailableError("the test took the store away")
        await replace(path, data)

    monkeypatch.setattr(stage.world.objects, "replace", fail_once)
    with pytest.raises(StorageUnavailableError):
        await stage.service.activate(ALICE, "support")
    with pytest.raises(NotFoundError):
        await stage.service.resolve(ACME, "support@1")
    assert (await stage.service.activate(ALICE, "support")).served


async def test_without_an_audit_record_nothing_comes_into_service(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.upload()

    async def fail(*_: Any) -> int:
        raise AuditUnavailableError("the test took the audit log away")

    with monkeypatch.context() as patch:
        patch.setattr(SqlAuditLog, "append_within", fail)
        with pytest.raises(AuditUnavailableError):
            await stage.service.activate(ALICE, "support")
    with pytest.raises(NotFoundError):
        await stage.service.resolve(ACME, "support")
    assert (await stage.service.activate(ALICE, "support")).served
    await verify_database(stage.database)
