"""Packages are registered once, and a bad one leaves nothing but its audit record."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapter_store.errors import (
    AdapterStoreError,
    TooLargeError,
    UnknownSignerError,
    WrongBaseModelError,
    WrongTenantError,
)
from adapter_store.tssp.signing import PublisherPrivateKey
from adapter_store.types import TenantId
from gateway.errors import (
    ConflictError,
    InvalidRequestError,
    PermissionDeniedError,
    UpstreamUnavailableError,
)
from gateway.tenancy.principal import LOCAL_OPERATOR, Principal
from gateway.tenancy.publisher_keys import PublisherKeys
from gateway.tenancy.scopes import Scope
from gateway.tenancy.tenants import Tenants
from tests.fakes.packages import pieces
from tests.unit.gateway.adapters.conftest import ALICE, GLORIA, MAX_PACKAGE_BYTES, OWNER, Stage

pytestmark = pytest.mark.anyio


async def nothing_is_left(stage: Stage) -> bool:
    return await stage.objects() == set() and await stage.service.list(ALICE) == []


async def test_what_an_upload_says_of_itself_is_kept(stage: Stage) -> None:
    uploaded = await stage.upload(version=7, description="For the help desk")
    assert uploaded == await stage.service.get(ALICE, "support@7")
    assert uploaded == await stage.service.get(ALICE, uploaded.digest)
    assert (uploaded.description, uploaded.base_model) == ("For the help desk", "tiny")
    assert uploaded.publisher == stage.world.publisher.public_key
    assert uploaded.size_bytes > 1000


async def test_a_changed_byte_is_refused_and_leaves_only_an_audit_record(stage: Stage) -> None:
    package = bytearray(stage.pack())
    package[-1] ^= 1
    with pytest.raises(AdapterStoreError) as refused:
        await stage.service.upload(ALICE, pieces(bytes(package)))
    assert await nothing_is_left(stage)
    assert f'"code":"{refused.value.code}"' in await stage.audited()
    assert await stage.upload()  # the upload can simply be repeated


async def test_a_package_of_another_tenant_base_or_publisher_is_refused(stage: Stage) -> None:
    with pytest.raises(WrongTenantError):
        await stage.service.upload(ALICE, pieces(stage.pack(GLORIA)))
    with pytest.raises(UnknownSignerError):
        await stage.upload(signer=PublisherPrivateKey.generate())
    stage.pool.fingerprint = "00" * 32
    with pytest.raises(WrongBaseModelError):
        await stage.upload()
    assert await nothing_is_left(stage)


async def test_a_package_over_the_limit_is_refused(stage: Stage) -> None:
    async def endless() -> AsyncIterator[bytes]:
        package = stage.pack()
        yield package
        for _ in range(MAX_PACKAGE_BYTES // 1000):
            yield bytes(1000)

    with pytest.raises((TooLargeError, AdapterStoreError)):
        await stage.service.upload(ALICE, endless())
    assert await nothing_is_left(stage)


async def test_a_replay_is_refused(stage: Stage) -> None:
    package = stage.pack()
    await stage.service.upload(ALICE, pieces(package))
    with pytest.raises(ConflictError):
        await stage.service.upload(ALICE, pieces(package))
    assert len(await stage.service.list(ALICE)) == 1


async def test_a_version_is_published_once(stage: Stage) -> None:
    first = await stage.upload()
    with pytest.raises(ConflictError, match="support@1"):
        await stage.upload()
    stored = await stage.world.stored()
    assert all(first.digest in path for path in stored)
    assert len(await stage.service.list(ALICE)) == 1


async def test_tenants_may_use_the_same_names(stage: Stage) -> None:
    assert (await stage.upload(ALICE)).digest != (await stage.upload(GLORIA)).digest


async def test_a_shredded_package_never_comes_back(stage: Stage) -> None:
    package = stage.pack()
    await stage.service.upload(ALICE, pieces(package))
    await stage.service.delete(ALICE, "support")
    with pytest.raises(ConflictError):
        await stage.service.upload(ALICE, pieces(package))
    assert await stage.objects() == set()


async def test_without_a_publisher_key_the_caller_is_told_so(stage: Stage) -> None:
    tenant = TenantId("initech")
    await Tenants(stage.database, stage.audit, stage.clock).create(LOCAL_OPERATOR, tenant)
    with pytest.raises(InvalidRequestError, match="no publisher key is registered"):
        await stage.upload(Principal("peter00000000001", tenant, OWNER))


async def test_a_revoked_publisher_key_signs_no_more_uploads(stage: Stage) -> None:
    keys = PublisherKeys(stage.database, stage.audit, stage.clock)
    other = PublisherPrivateKey.generate()
    await keys.register(LOCAL_OPERATOR, "acme", other.public_key)
    await keys.revoke(LOCAL_OPERATOR, "acme", stage.world.publisher.public_key.key_id)
    with pytest.raises(UnknownSignerError):
        await stage.upload()
    assert (await stage.upload(signer=other)).publisher == other.public_key


async def test_uploading_needs_the_scope_and_a_tenant(stage: Stage) -> None:
    reader = Principal("reader0000000001", ALICE.tenant, frozenset({Scope.ADAPTERS_READ}))
    nobody = Principal("nobody0000000001", None, OWNER)
    for actor in (reader, nobody):
        with pytest.raises(PermissionDeniedError):
            await stage.service.upload(actor, pieces(stage.pack()))


async def test_a_base_model_that_cannot_be_learnt_refuses_before_a_byte_is_read(
    stage: Stage,
) -> None:
    stage.pool.outage = UpstreamUnavailableError("the pool is away")

    async def unread() -> AsyncIterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    with pytest.raises(UpstreamUnavailableError):
        await stage.service.upload(ALICE, unread())
