"""Versions, rollback, revocation and deletion, by the commands that people use."""

from __future__ import annotations

import time

import openai
import pytest

from tests.fakes.tiny_llama import make_adapter
from tests.stack.deployment import Customer, Deployment

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PROMPT = [256, *range(70, 90)]
TOKENS = 16
CACHE_S = 2.5  # an alias is believed for two seconds


@pytest.fixture(scope="module")
def customer(deployment: Deployment) -> Customer:
    """A third tenant, for what would disturb the other two."""
    folder = make_adapter(
        deployment.model, deployment.scratch / "initech-1", seed=deployment.seed + 11
    )
    return deployment.onboard("initech", adapter="tps", adapter_dir=folder)


def test_a_new_version_takes_over_and_the_old_one_stays_callable(
    deployment: Deployment, customer: Customer
) -> None:
    first = deployment.reference(customer, PROMPT, TOKENS)
    assert deployment.complete(customer, "tps", PROMPT, TOKENS) == first
    customer.adapter_dir = make_adapter(
        deployment.model, deployment.scratch / "initech-2", seed=deployment.seed + 12
    )
    second = deployment.reference(customer, PROMPT, TOKENS)
    assert second != first
    deployment.push(customer, version=2)
    time.sleep(CACHE_S)
    assert deployment.complete(customer, "tps", PROMPT, TOKENS) == second
    assert deployment.complete(customer, "tps@1", PROMPT, TOKENS) == first


def test_rolling_back_is_activating_the_older_version(
    deployment: Deployment, customer: Customer
) -> None:
    before = deployment.complete(customer, "tps@1", PROMPT, TOKENS)
    deployment.run("adapter", "activate", "tps@1", key=customer.api_key)
    time.sleep(CACHE_S)
    assert deployment.complete(customer, "tps", PROMPT, TOKENS) == before
    assert deployment.complete(customer, "tps@2", PROMPT, TOKENS) != before


def test_a_revoked_version_is_served_no_more(deployment: Deployment, customer: Customer) -> None:
    deployment.run("adapter", "revoke", "tps@2", "--reason=leaked", key=customer.api_key)
    time.sleep(CACHE_S)
    with pytest.raises(openai.NotFoundError):
        deployment.complete(customer, "tps@2", PROMPT, TOKENS)
    result = deployment.cli("adapter", "activate", "tps@2", key=customer.api_key)
    assert result.exit_code == 1
    assert deployment.complete(customer, "tps@1", PROMPT, TOKENS)


def test_a_deleted_version_leaves_no_object(deployment: Deployment, customer: Customer) -> None:
    rows = deployment.run("adapter", "list", key=customer.api_key)
    digest = next(row["digest"] for row in rows if row["version"] == 2)
    assert any(digest in path for path in deployment.objects())
    deployment.run("adapter", "delete", "tps@2", key=customer.api_key)
    assert not any(digest in path for path in deployment.objects())
    result = deployment.cli("adapter", "activate", digest, key=customer.api_key)
    assert result.exit_code == 1
    assert "shredded" in result.stderr
