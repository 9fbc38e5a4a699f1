"""Tenants, and the publishers whose signatures they trust."""

from __future__ import annotations

import pytest

from adapter_store.tssp.signing import PublisherPrivateKey
from adapter_store.types import TenantId
from gateway.audit.log import SqlAuditLog
from gateway.errors import ConflictError, InvalidRequestError, NotFoundError
from gateway.tenancy.principal import LOCAL_OPERATOR
from gateway.tenancy.publisher_keys import PublisherKeys
from gateway.tenancy.tenants import Tenants

pytestmark = pytest.mark.anyio

ACME = TenantId("acme")


async def test_a_tenant_is_created_once(tenants: Tenants) -> None:
    created = await tenants.create(LOCAL_OPERATOR, "initech", display_name="Initech Inc.")
    assert await tenants.get("initech") == created
    with pytest.raises(ConflictError):
        await tenants.create(LOCAL_OPERATOR, "initech")
    assert [each.id for each in await tenants.list()] == ["acme", "globex", "initech"]


@pytest.mark.parametrize("name", ["", "Acme", "a" * 49, "-a", "a_b", "a/../b", "a\n", "é"])
async def test_a_tenant_needs_a_plain_name(tenants: Tenants, name: str) -> None:
    with pytest.raises(InvalidRequestError):
        await tenants.create(LOCAL_OPERATOR, name)
    with pytest.raises(NotFoundError):
        await tenants.get(name)


async def test_disabling_is_repeatable(tenants: Tenants, audit: SqlAuditLog) -> None:
    disabled = await tenants.disable(LOCAL_OPERATOR, "acme")
    assert disabled.disabled_at is not None
    head = await audit.head()
    assert await tenants.disable(LOCAL_OPERATOR, "acme") == disabled
    assert await audit.head() == head
    with pytest.raises(NotFoundError):
        await tenants.disable(LOCAL_OPERATOR, "initech")


async def test_a_publisher_key_is_trusted_by_the_tenant_that_registered_it(
    publisher_keys: PublisherKeys,
) -> None:
    key = PublisherPrivateKey.generate().public_key
    registered = await publisher_keys.register(LOCAL_OPERATOR, "acme", key, label="build server")
    assert registered.public_key == key
    assert await publisher_keys.trusted(ACME) == (key,)
    assert await publisher_keys.trusted(TenantId("globex")) == ()
    assert await publisher_keys.register(LOCAL_OPERATOR, "acme", key) == registered
    assert await publisher_keys.list("acme") == [registered]


async def test_a_revoked_publisher_key_never_comes_back(publisher_keys: PublisherKeys) -> None:
    key = PublisherPrivateKey.generate().public_key
    await publisher_keys.register(LOCAL_OPERATOR, "acme", key)
    revoked = await publisher_keys.revoke(LOCAL_OPERATOR, "acme", key.key_id)
    assert await publisher_keys.revoke(LOCAL_OPERATOR, "acme", key.key_id) == revoked
    assert await publisher_keys.trusted(ACME) == ()
    with pytest.raises(ConflictError):
        await publisher_keys.register(LOCAL_OPERATOR, "acme", key)


async def test_unknown_tenants_and_keys_are_not_found(publisher_keys: PublisherKeys) -> None:
    key = PublisherPrivateKey.generate().public_key
    with pytest.raises(NotFoundError):
        await publisher_keys.register(LOCAL_OPERATOR, "initech", key)
    with pytest.raises(NotFoundError):
        await publisher_keys.list("initech")
    for tenant in ("acme", "initech"):
        with pytest.raises(NotFoundError):
            await publisher_keys.revoke(LOCAL_OPERATOR, tenant, key.key_id)
