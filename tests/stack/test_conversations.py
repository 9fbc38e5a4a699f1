"""Two tenants talk to their own adapters through one engine, with the official SDK."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.stack.deployment import BASE, Customer, Deployment

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PROMPTS = [[256, *range(start, start + 24)] for start in (65, 97, 40)]
TOKENS = 32


def test_greedy_tokens_of_both_tenants_at_once_are_those_of_peft(deployment: Deployment) -> None:
    wanted = [
        (customer, prompt)
        for prompt in PROMPTS
        for customer in (deployment.acme, deployment.globex)
    ]
    with ThreadPoolExecutor(len(wanted)) as threads:
        found = list(
            threads.map(
                lambda each: deployment.complete(each[0], each[0].adapter, each[1], TOKENS), wanted
            )
        )
    expected = [deployment.reference(customer, prompt, TOKENS) for customer, prompt in wanted]
    assert found == expected


def test_the_other_adapter_and_the_base_model_say_something_else(deployment: Deployment) -> None:
    """The control: were adapters not applied, or mixed up, the test above could not pass."""
    for prompt in PROMPTS:
        acme = deployment.reference(deployment.acme, prompt, TOKENS)
        assert acme != deployment.reference(deployment.globex, prompt, TOKENS)
        assert acme != deployment.reference(None, prompt, TOKENS)


def test_the_base_model_is_served_as_it_is(deployment: Deployment) -> None:
    found = deployment.complete(deployment.acme, BASE, PROMPTS[0], TOKENS)
    assert found == deployment.reference(None, PROMPTS[0], TOKENS)


def test_a_stream_brings_the_same_tokens_one_by_one(deployment: Deployment) -> None:
    stream = deployment.sdk(deployment.acme).completions.create(
        model="support",
        prompt=PROMPTS[0],
        max_tokens=TOKENS,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True, "return_token_ids": True},
    )
    chunks = list(stream)
    tokens = [token for chunk in chunks for token in (chunk.choices[0].token_ids or [])]  # type: ignore[attr-defined]
    assert tokens == deployment.reference(deployment.acme, PROMPTS[0], TOKENS)
    assert len(chunks) > TOKENS // 4
    assert {chunk.model for chunk in chunks} == {"support"}


@pytest.mark.parametrize("tenant", ["acme", "globex"])
def test_a_chat_is_answered_under_the_tenants_own_name(deployment: Deployment, tenant: str) -> None:
    customer = deployment.customers[tenant]
    answer = deployment.sdk(customer).chat.completions.create(
        model=customer.adapter,
        messages=[{"role": "user", "content": "Hello?"}],
        max_tokens=8,
        temperature=0,
    )
    assert answer.model == customer.adapter
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


def test_a_streamed_chat_counts_its_tokens_when_asked(deployment: Deployment) -> None:
    *chunks, last = deployment.sdk(deployment.acme).chat.completions.create(
        model="support",
        messages=[{"role": "user", "content": "Hello?"}],
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    assert last.usage is not None
    assert last.usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks)


def test_each_tenant_sees_its_own_adapters_and_the_base_model_only(deployment: Deployment) -> None:
    def models(customer: Customer) -> set[str]:
        return {model.id for model in deployment.sdk(customer).models.list()}

    assert models(deployment.acme) == {BASE, "support"}
    assert models(deployment.globex) == {BASE, "notes"}


def test_what_is_not_yours_is_answered_exactly_as_what_is_not_there(
    deployment: Deployment,
) -> None:
    def answer(model: str) -> tuple[int, bytes, set[str]]:
        with deployment.http(deployment.globex) as client:
            got = client.post("/v1/completions", json={"model": model, "prompt": "a"})
        return got.status_code, got.content, set(got.headers)

    foreign, missing = answer("support"), answer("nowhere")
    assert foreign == missing
    assert foreign[0] == 404
    digest = deployment.run("adapter", "list", key=deployment.acme.api_key)[0]["digest"]
    for name in (digest, f"ts-acme-{digest}-1", f"support@{1}"):
        assert answer(name) == missing
