"""Keys that must not work, and how soon they stop working."""

from __future__ import annotations

import time

import openai
import pytest

from tests.stack.deployment import Deployment

pytestmark = [pytest.mark.engine, pytest.mark.slow]

REVOCATION_BOUND_S = 5.0


def status(deployment: Deployment, key: str) -> int:
    """Return how a request with `key` is answered."""
    try:
        deployment.sdk(deployment.acme, api_key=key).models.list()
    except openai.APIStatusError as error:
        return error.status_code
    return 200


@pytest.mark.parametrize(
    "key",
    [
        "tsk_test_short",
        "sk-something-else",
        "tsk_test_0000000000000000_" + "A" * 49,
        "x" * 5000,
    ],
    ids=["malformed", "of another service", "unknown", "endless"],
)
def test_a_key_that_is_none_gets_401(deployment: Deployment, key: str) -> None:
    assert status(deployment, key) == 401


def test_a_key_with_one_character_changed_gets_401(deployment: Deployment) -> None:
    key = deployment.acme.api_key
    changed = key[:-10] + ("a" if key[-10] != "a" else "b") + key[-9:]
    assert status(deployment, changed) == 401
    assert status(deployment, key) == 200


def test_a_revoked_key_stops_within_five_seconds(deployment: Deployment) -> None:
    issued = deployment.run("key", "create", "acme")
    assert status(deployment, issued["key"]) == 200  # and is cached now
    deployment.run("key", "revoke", issued["id"])
    revoked = time.monotonic()
    while status(deployment, issued["key"]) != 401:
        assert time.monotonic() - revoked < REVOCATION_BOUND_S
        time.sleep(0.1)


def test_a_rotated_key_and_its_successor_both_work_during_the_overlap(
    deployment: Deployment,
) -> None:
    old = deployment.run("key", "create", "acme")
    new = deployment.run("key", "rotate", old["id"], "--overlap-s=4")
    assert status(deployment, old["key"]) == 200
    assert status(deployment, new["key"]) == 200
    time.sleep(4 + 2.5)
    assert status(deployment, old["key"]) == 401
    assert status(deployment, new["key"]) == 200


def test_a_key_without_the_scope_gets_403(deployment: Deployment) -> None:
    issued = deployment.run("key", "create", "acme", "--scope=adapters:read")
    with pytest.raises(openai.PermissionDeniedError):
        deployment.sdk(deployment.acme, api_key=issued["key"]).completions.create(
            model="support", prompt="a"
        )


def test_a_tenants_key_is_no_administrators(deployment: Deployment) -> None:
    result = deployment.cli("tenant", "list", "--json", key=deployment.acme.api_key)
    assert result.exit_code == 3
    assert '"insufficient_scope"' in result.stderr


def test_a_disabled_tenant_is_served_no_more(deployment: Deployment) -> None:
    deployment.run("tenant", "create", "brief")
    issued = deployment.run("key", "create", "brief")
    assert status(deployment, issued["key"]) == 200
    deployment.run("tenant", "disable", "brief")
    time.sleep(2.5)
    assert status(deployment, issued["key"]) == 401
