"""What belongs to another tenant does not exist, in every way of asking."""

from __future__ import annotations

import pytest

from gateway.errors import NotFoundError, PermissionDeniedError
from gateway.tenancy.principal import Principal
from gateway.tenancy.scopes import Scope
from tests.fakes.packages import ACME, GLOBEX
from tests.unit.gateway.adapters.conftest import ALICE, GLORIA, Stage

pytestmark = pytest.mark.anyio

METHODS = ("get", "activate", "retire", "revoke", "delete")


@pytest.mark.parametrize("method", METHODS)
async def test_anothers_adapter_and_none_at_all_get_one_answer(stage: Stage, method: str) -> None:
    adapter = await stage.active(ALICE)
    answers = set()
    for reference in ("support", "support@1", adapter.digest, "nothing", "nothing@1", "0" * 64):
        with pytest.raises(NotFoundError) as refused:
            await getattr(stage.service, method)(GLORIA, reference)
        answers.add((type(refused.value), str(refused.value)))
    assert len(answers) == 1
    assert await stage.service.get(ALICE, "support") == adapter


async def test_a_name_resolves_to_the_callers_own_adapter(stage: Stage) -> None:
    for actor in (ALICE, GLORIA):
        await stage.active(actor)
    ours = await stage.service.resolve(ACME, "support")
    theirs = await stage.service.resolve(GLOBEX, "support")
    assert ours.engine_name.tenant == ACME
    assert theirs.engine_name.tenant == GLOBEX
    assert len(await stage.service.served(ACME)) == 1


@pytest.mark.parametrize(
    "name",
    ["", "@", "support@", "support@0", "support@01", "support@99999999999", "../acme", "a" * 65,
     "support@1@1", "Support", "support\x00", "тест", "ts-acme-" + "0" * 64 + "-1"],
)  # fmt: skip
async def test_what_is_no_name_is_not_found(stage: Stage, name: str) -> None:
    with pytest.raises(NotFoundError):
        await stage.service.resolve(ACME, name)
    with pytest.raises(NotFoundError):
        await stage.service.get(ALICE, name)


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_needs_its_scope(stage: Stage, method: str) -> None:
    await stage.upload()
    caller = Principal("caller0000000001", ACME, frozenset({Scope.INFERENCE}))
    with pytest.raises(PermissionDeniedError):
        await getattr(stage.service, method)(caller, "support")
