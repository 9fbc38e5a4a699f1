"""A key is who it says, or nobody: one answer for every reason, and revocation within seconds."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from gateway.db.engine import Database
from gateway.db.tables import api_keys as api_keys_table
from gateway.errors import AuthenticationError, StoreUnavailableError
from gateway.tenancy import key_text
from gateway.tenancy.api_keys import ApiKeys, IssuedKey
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.key_text import KeyText, Pepper
from gateway.tenancy.principal import LOCAL_OPERATOR
from gateway.tenancy.scopes import Scope
from gateway.tenancy.tenants import Tenants
from tests.fakes.clock import FakeClock
from tests.unit.gateway.tenancy.conftest import TTL_S

pytestmark = pytest.mark.anyio


async def issue(api_keys: ApiKeys, tenant: str | None = "acme", **changes: Any) -> IssuedKey:
    scopes = {Scope.INFERENCE} if tenant else {Scope.ADMIN}
    return await api_keys.issue(LOCAL_OPERATOR, tenant=tenant, **({"scopes": scopes} | changes))


class Reads:
    """Counts, and forbids, reads of the database."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.forbidden = False
        self._read = database.read
        monkeypatch.setattr(database, "read", self)

    def __call__(self) -> Any:
        if self.forbidden:
            raise StoreUnavailableError("the test took the database away")
        self.count += 1
        return self._read()


@pytest.fixture
def reads(database: Database, monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(database, monkeypatch)


async def refused(authenticator: Authenticator, bearer: str | None) -> str:
    with pytest.raises(AuthenticationError) as error:
        await authenticator.authenticate(bearer)
    return str(error.value)


async def test_a_key_is_its_tenant_with_its_scopes(
    api_keys: ApiKeys, authenticator: Authenticator
) -> None:
    issued = await issue(api_keys, scopes={Scope.INFERENCE, Scope.ADAPTERS_READ})
    principal = await authenticator.authenticate(issued.text.reveal())
    assert principal.key_id == issued.key.key_id
    assert principal.tenant == "acme"
    assert principal.scopes == {Scope.INFERENCE, Scope.ADAPTERS_READ}
    admin = await authenticator.authenticate((await issue(api_keys, None)).text.reveal())
    assert admin.tenant is None


async def test_every_reason_gets_the_same_answer(
    api_keys: ApiKeys,
    tenants: Tenants,
    authenticator: Authenticator,
    make_authenticator: Callable[..., Authenticator],
    clock: FakeClock,
) -> None:
    good = (await issue(api_keys)).text.reveal()
    revoked, expired = (
        await issue(api_keys),
        await issue(api_keys, expires_at=clock.now() + timedelta(seconds=1)),
    )
    disabled = await issue(api_keys, "globex")
    await api_keys.revoke(LOCAL_OPERATOR, revoked.key.key_id)
    await tenants.disable(LOCAL_OPERATOR, "globex")
    clock.advance(1)
    unknown = KeyText.generate("test").reveal()
    answers = {
        await refused(authenticator, None),
        await refused(authenticator, ""),
        await refused(authenticator, "not a key"),
        await refused(authenticator, good[:-1]),
        await refused(authenticator, unknown),
        await refused(authenticator, forged(good)),
        await refused(authenticator, revoked.text.reveal()),
        await refused(authenticator, expired.text.reveal()),
        await refused(authenticator, disabled.text.reveal()),
        await refused(make_authenticator(environment="live"), good),
        await refused(make_authenticator(pepper=Pepper(1, b"q" * 32)), good),
        await refused(make_authenticator(pepper=Pepper(2, b"p" * 32)), good),
    }
    assert len(answers) == 1
    await authenticator.authenticate(good)


def forged(text: str) -> str:
    """A well-formed key with the id of a real one and another secret."""
    body = text.rpartition("_")[0] + "_" + "0" * 43
    return body + key_text._checksum(body)


async def test_an_unknown_key_takes_the_same_work_as_a_known_one(
    api_keys: ApiKeys, authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (await issue(api_keys)).text.reveal()
    calls: list[str] = []

    def recorded(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return function(*arguments)

        return call

    monkeypatch.setattr(hmac, "digest", recorded("digest", hmac.digest))
    monkeypatch.setattr(hmac, "compare_digest", recorded("compare", hmac.compare_digest))
    await authenticator.authenticate(good)
    known, calls[:] = list(calls), []
    for bearer in (KeyText.generate("test").reveal(), KeyText.generate("live").reveal()):
        await refused(authenticator, bearer)
        assert calls == known == ["digest", "compare"]
        calls.clear()


async def test_the_mac_of_one_key_does_not_open_another(
    api_keys: ApiKeys, authenticator: Authenticator, database: Database
) -> None:
    """Whoever can write the database but lacks the pepper cannot turn a key into an admin's."""
    mine, admin = await issue(api_keys), await issue(api_keys, None)
    async with database.write() as connection:
        await connection.execute(
            update(api_keys_table)
            .where(api_keys_table.c.key_id == admin.key.key_id)
            .values(mac=mine.text.mac(Pepper(1, b"p" * 32)))
        )
    await refused(authenticator, admin.text.reveal())
    body = f"tsk_test_{admin.key.key_id}_" + mine.text.reveal().rpartition("_")[2][:43]
    await refused(authenticator, body + key_text._checksum(body))


async def test_a_warm_key_needs_no_database(
    api_keys: ApiKeys, authenticator: Authenticator, reads: Reads
) -> None:
    good = (await issue(api_keys)).text.reveal()
    await authenticator.authenticate(good)
    reads.forbidden = True
    for _ in range(10):
        await authenticator.authenticate(good)


async def test_a_wrong_secret_is_refused_from_memory_too(
    api_keys: ApiKeys, authenticator: Authenticator, reads: Reads
) -> None:
    good = (await issue(api_keys)).text.reveal()
    await authenticator.authenticate(good)
    reads.forbidden = True
    await refused(authenticator, forged(good))
    await refused(authenticator, "not a key")


async def test_without_the_database_a_cold_key_is_not_accepted(
    api_keys: ApiKeys, authenticator: Authenticator, reads: Reads, clock: FakeClock
) -> None:
    good = (await issue(api_keys)).text.reveal()
    reads.forbidden = True
    with pytest.raises(StoreUnavailableError):
        await authenticator.authenticate(good)
    reads.forbidden = False
    await authenticator.authenticate(good)
    reads.forbidden = True
    clock.advance(TTL_S)
    with pytest.raises(StoreUnavailableError):
        await authenticator.authenticate(good)


async def test_a_revocation_takes_effect_on_every_replica_within_the_ttl(
    api_keys: ApiKeys, make_authenticator: Callable[..., Authenticator], clock: FakeClock
) -> None:
    issued = await issue(api_keys)
    replicas = [make_authenticator(), make_authenticator()]
    for replica in replicas:
        await replica.authenticate(issued.text.reveal())
    await api_keys.revoke(LOCAL_OPERATOR, issued.key.key_id)
    await replicas[0].authenticate(issued.text.reveal())  # the negative control: still in memory
    clock.advance(TTL_S)
    for replica in replicas:
        await refused(replica, issued.text.reveal())


async def test_an_expiry_takes_effect_at_once(
    api_keys: ApiKeys, authenticator: Authenticator, clock: FakeClock
) -> None:
    issued = await issue(api_keys, expires_at=clock.now() + timedelta(seconds=1))
    await authenticator.authenticate(issued.text.reveal())
    clock.advance(1)
    await refused(authenticator, issued.text.reveal())


async def test_a_slow_lookup_does_not_lengthen_the_ttl(
    api_keys: ApiKeys, authenticator: Authenticator, clock: FakeClock, database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    issued = await issue(api_keys)
    load = authenticator._known._load

    async def slow(key_id: str) -> Any:
        stored = await load(key_id)
        clock.advance(1.5)  # the answer was on its way
        return stored

    monkeypatch.setattr(authenticator._known, "_load", slow)
    await authenticator.authenticate(issued.text.reveal())
    await api_keys.revoke(LOCAL_OPERATOR, issued.key.key_id)
    clock.advance(0.5)
    await refused(authenticator, issued.text.reveal())


async def test_many_requests_with_a_cold_key_ask_the_database_once(
    api_keys: ApiKeys, authenticator: Authenticator, reads: Reads
) -> None:
    good = (await issue(api_keys)).text.reveal()
    await asyncio.gather(*(authenticator.authenticate(good) for _ in range(50)))
    assert reads.count == 1


async def test_unknown_keys_cannot_push_a_known_one_out_of_memory(
    api_keys: ApiKeys, authenticator: Authenticator, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (await issue(api_keys)).text.reveal()
    await authenticator.authenticate(good)
    for _ in range(30):
        await refused(authenticator, KeyText.generate("test").reveal())
    reads.forbidden = True
    await authenticator.authenticate(good)
