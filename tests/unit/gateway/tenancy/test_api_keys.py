"""API keys are shown once, rotated with an overlap, and revoked for good."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from gateway.audit.log import SqlAuditLog
from gateway.audit.verify import verify_database
from gateway.db.engine import Database
from gateway.db.tables import metadata
from gateway.errors import (
    AuditUnavailableError,
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
)
from gateway.tenancy.api_keys import ApiKeys
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.principal import LOCAL_OPERATOR
from gateway.tenancy.scopes import Scope, parse_scopes
from tests.fakes.clock import FakeClock
from tests.unit.gateway.tenancy.conftest import TTL_S

pytestmark = pytest.mark.anyio

INFERENCE = frozenset({Scope.INFERENCE})


async def test_a_key_is_kept_without_its_secret(
    api_keys: ApiKeys, database: Database, tmp_path: Path, dialect: str
) -> None:
    issued = await api_keys.issue(LOCAL_OPERATOR, tenant="acme", scopes=INFERENCE, label="ci")
    secret = issued.text.reveal().rpartition("_")[2]
    async with database.read() as connection:
        for table in metadata.tables.values():
            for row in await connection.execute(select(table)):
                assert secret not in repr(tuple(row))
    if dialect == "sqlite":  # nor anywhere in the files
        assert secret[:20].encode() not in everything_in(tmp_path)
        assert issued.key.key_id.encode() in everything_in(tmp_path)  # the negative control
    assert secret not in repr(issued)
    assert await api_keys.get(issued.key.key_id) == issued.key


def everything_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.glob("gateway.db*"))


async def test_keys_are_listed_by_tenant(api_keys: ApiKeys, clock: FakeClock) -> None:
    issued = []
    for tenant in ("acme", "globex", "acme"):
        issued.append(await api_keys.issue(LOCAL_OPERATOR, tenant=tenant, scopes=INFERENCE))
        clock.advance(1)
    first, second, third = (each.key for each in issued)
    assert await api_keys.list("acme") == [first, third]
    assert await api_keys.list() == [first, second, third]
    assert await api_keys.list("initech") == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"tenant": "initech"}, NotFoundError),
        ({"scopes": frozenset()}, InvalidRequestError),
        ({"scopes": {Scope.ADMIN}}, InvalidRequestError),
        ({"tenant": None}, InvalidRequestError),
        ({"label": "x" * 201}, InvalidRequestError),
        ({"label": "two\nlines"}, InvalidRequestError),
    ],
)
async def test_a_key_that_makes_no_sense_is_not_issued(
    api_keys: ApiKeys, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await api_keys.issue(LOCAL_OPERATOR, **({"tenant": "acme", "scopes": INFERENCE} | changes))
    assert await api_keys.list() == []


async def test_a_key_that_has_expired_already_is_not_issued(
    api_keys: ApiKeys, clock: FakeClock
) -> None:
    with pytest.raises(InvalidRequestError, match="expiry in the future"):
        await api_keys.issue(
            LOCAL_OPERATOR, tenant="acme", scopes=INFERENCE, expires_at=clock.now()
        )


async def test_without_an_audit_record_no_key_is_issued(
    api_keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> int:
        raise AuditUnavailableError("the test took the audit log away")

    with monkeypatch.context() as patch:
        patch.setattr(SqlAuditLog, "append_within", fail)
        with pytest.raises(AuditUnavailableError):
            await api_keys.issue(LOCAL_OPERATOR, tenant="acme", scopes=INFERENCE)
    assert await api_keys.list() == []


async def test_a_rotated_key_works_beside_its_successor_for_a_while(
    api_keys: ApiKeys, authenticator: Authenticator, clock: FakeClock
) -> None:
    old = await api_keys.issue(LOCAL_OPERATOR, tenant="acme", scopes=INFERENCE, label="ci")
    new = await api_keys.rotate(LOCAL_OPERATOR, old.key.key_id, overlap_s=60)
    assert (new.key.tenant, new.key.scopes, new.key.label) == ("acme", INFERENCE, "ci")
    assert (await api_keys.get(old.key.key_id)).replaced_by == new.key.key_id
    for key in (old, new):
        await authenticator.authenticate(key.text.reveal())
    clock.advance(60)
    with pytest.raises(AuthenticationError):
        await authenticator.authenticate(old.text.reveal())
    await authenticator.authenticate(new.text.reveal())


async def test_a_rotation_without_overlap_stops_the_old_key_within_the_ttl(
    api_keys: ApiKeys, authenticator: Authenticator, clock: FakeClock
) -> None:
    old = await api_keys.issue(LOCAL_OPERATOR, tenant="acme", scopes=INFERENCE)
    await authenticator.authenticate(old.text.reveal())
    await api_keys.rotate(LOCAL_OPERATOR, old.key.key_id, overlap_s=0)
    clock.advance(TTL_S)
    with pytest.raises(AuthenticationError):
        await authenticator.authenticate(old.text.reveal())


async def test_a_rotation_never_prolongs_a_key(api_keys: ApiKeys, clock: FakeClock) -> None:
    end = clock.now() + timedelta(seconds=10)
    old = await api_keys.issue(LOCAL_OPERATOR, tenant="acme", scopes=INFERENCE, expires_at=end)
    new = await api_keys.rotate(LOCAL_OPERATOR, old.key.key_id, overlap_s=3600)
    assert (await api_keys.get(old.key.key_id)).expires_at == end
    assert new.key.expires_at == end


async def test_only_a_key_in_use_is_rotated(api_keys: ApiKeys, clock: FakeClock) -> None:
    revoked = await api_keys.issue(LOCAL_OPERATOR, tenant="acme", scopes=INFERENCE)
    await api_keys.revoke(LOCAL_OPERATOR, revoked.key.key_id)
    rotated = await api_keys.issue(LOCAL_OPERATOR, tenant="acme", scopes=INFERENCE)
    await api_keys.rotate(LOCAL_OPERATOR, rotated.key.key_id, overlap_s=60)
    soon = clock.now() + timedelta(seconds=1)
    expired = await api_keys.issue(LOCAL_OPERATOR, tenant="acme", scopes=INFERENCE, expires_at=soon)
    clock.advance(1)
    for issued in (revoked, rotated, expired):
        with pytest.raises(ConflictError):
            await api_keys.rotate(LOCAL_OPERATOR, issued.key.key_id, overlap_s=60)
    for overlap_s in (-1, float("nan"), 10**9):
        with pytest.raises(InvalidRequestError):
            await api_keys.rotate(LOCAL_OPERATOR, rotated.key.key_id, overlap_s=overlap_s)


async def test_two_rotations_at_once_make_one_successor(api_keys: ApiKeys) -> None:
    old = await api_keys.issue(LOCAL_OPERATOR, tenant="acme", scopes=INFERENCE)
    results = await asyncio.gather(
        *(api_keys.rotate(LOCAL_OPERATOR, old.key.key_id, overlap_s=60) for _ in range(4)),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in results) == ["ConflictError"] * 3 + ["IssuedKey"]
    assert len(await api_keys.list()) == 2


async def test_revoking_is_repeatable_and_audited_once(
    api_keys: ApiKeys, audit: SqlAuditLog, database: Database
) -> None:
    issued = await api_keys.issue(LOCAL_OPERATOR, tenant="acme", scopes=INFERENCE)
    first = await api_keys.revoke(LOCAL_OPERATOR, issued.key.key_id)
    head = await audit.head()
    assert await api_keys.revoke(LOCAL_OPERATOR, issued.key.key_id) == first
    assert await verify_database(database) == head
    for key_id in ("0" * 16, "", "x" * 1000):
        with pytest.raises(NotFoundError):
            await api_keys.revoke(LOCAL_OPERATOR, key_id)


def test_scopes_have_the_documented_names() -> None:
    names = ["inference", "adapters:read", "adapters:write", "audit:read", "admin"]
    assert parse_scopes(names) == frozenset(Scope)
    for wrong in ([], ["everything"], ["inference", ""]):
        with pytest.raises(InvalidRequestError):
            parse_scopes(wrong)
