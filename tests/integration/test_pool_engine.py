"""A real vLLM under a real pool: what it says, what it refuses, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx2
import openai
import pytest
from safetensors.numpy import load_file

from adapter_store.objects.paths import PackagePaths
from adapter_store.types import EngineName, TenantId
from runtime.engine_process import scratch_directory
from tests.fakes.packages import ACME, GLOBEX
from tests.fakes.pool_process import SERVED, HomeWorld, PoolProcess, running_pool
from tests.fakes.tiny_llama import greedy, make_adapter, make_model

pytestmark = [pytest.mark.anyio, pytest.mark.engine, pytest.mark.slow]

PROMPT = [256, *range(65, 95)]
LONG_PROMPT = [256, *(40 + 7 * i % 200 for i in range(300))]
TOKENS = 24
OPTIONS = (
    "--dtype=float32",
    "--max-model-len=512",
    "--max-num-batched-tokens=128",  # so that LONG_PROMPT is read in chunks
    "--max-num-seqs=16",
    "--max-loras=2",
    "--max-cpu-loras=2",  # so that a third adapter evicts the first
    "--max-lora-rank=8",
    "--kv-cache-gib=0.25",
)


@dataclass(frozen=True)
class Adapters:
    """The base model and three adapters: where they are, and what the engine calls them."""

    model: Path
    folders: dict[str, Path]
    names: dict[str, EngineName]

    def says(self, who: str, prompt: list[int], tokens: int = TOKENS) -> list[int]:
        """Return what PEFT itself generates."""
        return greedy(self.model, self.folders.get(who), prompt, tokens)

    def model_name(self, who: str) -> str:
        return SERVED if who == "base" else str(self.names[who])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def world(model: Path) -> Iterator[HomeWorld]:
    # Not under pytest's folder: the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="ts-test-") as home:
        yield HomeWorld.create(Path(home), model)


@pytest.fixture(scope="module")
def pool(world: HomeWorld, model: Path) -> Iterator[PoolProcess]:
    with running_pool(world, model, *OPTIONS) as pool:
        pool.wait_until_ready()
        yield pool


@pytest.fixture(scope="module")
async def adapters(
    pool: PoolProcess, world: HomeWorld, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Adapters:
    """Three adapters, uploaded, admitted by the pool and activated: two of acme, one of globex."""
    folders, names = {}, {}
    for seed, (who, tenant) in enumerate({"a": ACME, "b": GLOBEX, "c": ACME}.items(), start=1):
        folder = make_adapter(model, tmp_path_factory.mktemp(who), seed=seed)
        folders[who] = folder
        names[who] = await activate(pool, world, folder, tenant=tenant)
    return Adapters(model, folders, names)


async def activate(
    pool: PoolProcess, world: HomeWorld, folder: Path, *, tenant: TenantId = ACME, epoch: int = 1
) -> EngineName:
    package = world.pack(folder, tenant=tenant)
    digest = (await world.ingest(package, tenant=tenant)).digest
    await world.record(digest, "admitting", tenant=tenant, epoch=epoch)
    answer = await anyio.to_thread.run_sync(pool.admit, digest, tenant)
    assert answer.status_code == 200, answer.text
    await world.record(digest, "active", tenant=tenant, epoch=epoch)
    return EngineName(tenant, digest, epoch)


async def complete(
    pool: PoolProcess, model: str, prompt: list[int] | str, tokens: int = TOKENS, **more: Any
) -> httpx2.Response:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    async with pool.async_engine() as client:
        return await client.post("/v1/completions", json=body | more)


async def token_ids(
    pool: PoolProcess, model: str, prompt: list[int], tokens: int = TOKENS
) -> list[int]:
    answer = await complete(pool, model, prompt, tokens)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["choices"][0]["token_ids"])


async def engine_state(pool: PoolProcess) -> dict[str, Any]:
    async with pool.async_engine() as client:
        return dict((await client.get("/v1/tensafe/state")).json())


@pytest.mark.parametrize("prompt", [PROMPT, LONG_PROMPT], ids=["short", "in chunks"])
async def test_greedy_tokens_of_every_adapter_equal_pefts_own(
    pool: PoolProcess, adapters: Adapters, prompt: list[int]
) -> None:
    expected = {who: adapters.says(who, prompt) for who in ("base", "a", "b")}
    found = {
        who: await token_ids(pool, adapters.model_name(who), prompt) for who in ("base", "a", "b")
    }
    again = await token_ids(pool, adapters.model_name("a"), prompt)

    assert found == expected
    assert again == expected["a"], "the second time, from the prefix cache"
    # Control: an adapter that was silently left out would not have gone unnoticed.
    assert len({tuple(tokens) for tokens in expected.values()}) == 3


async def test_requests_of_all_tenants_in_one_batch_get_what_each_alone_would_get(
    pool: PoolProcess, adapters: Adapters
) -> None:
    who = ["base", "a", "b", "c"] * 4
    prompts = [[256, *range(40 + i, 90 + i)] for i in range(len(who))]

    found = await asyncio.gather(
        *(token_ids(pool, adapters.model_name(w), p, 16) for w, p in zip(who, prompts, strict=True))
    )

    assert found == [adapters.says(w, p, 16) for w, p in zip(who, prompts, strict=True)]


async def test_an_adapter_that_was_evicted_while_it_generates_comes_back_in_the_next_step(
    pool: PoolProcess, adapters: Adapters
) -> None:
    """Two places in the workers' memory, three adapters: each new one drives out a running one."""
    running = asyncio.create_task(token_ids(pool, adapters.model_name("a"), PROMPT, 300))
    for _ in range(4):
        for other in ("b", "c"):
            await token_ids(pool, adapters.model_name(other), PROMPT, 2)

    assert await running == adapters.says("a", PROMPT, 300)


async def test_the_official_sdk_chats_with_an_adapter_streamed_and_not(
    pool: PoolProcess, adapters: Adapters
) -> None:
    async with openai.AsyncOpenAI(
        base_url="http://engine/v1", api_key="unused", http_client=pool.async_engine()
    ) as sdk:
        ask: dict[str, Any] = {
            "model": adapters.model_name("b"),
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 12,
            "temperature": 0,
        }
        whole = await sdk.chat.completions.create(**ask)
        stream = await sdk.chat.completions.create(**ask, stream=True)
        parts = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]

    assert whole.choices[0].message.content == "".join(parts)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12


@pytest.mark.parametrize(
    "name",
    [
        "nonsense",
        "../../etc/passwd",
        "ts-acme-" + "0" * 64 + "-1",
        "ts-acme-" + "0" * 63 + "-1",
        "ts-" + "a" * 400,
        "тс",
    ],
)
async def test_unknown_names_are_not_found_and_leave_nothing_in_the_engine(
    pool: PoolProcess, name: str
) -> None:
    before = await engine_state(pool)

    answer = await complete(pool, name, PROMPT, 1)

    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "NotFoundError"
    assert await engine_state(pool) == before


async def test_an_uploaded_but_not_activated_package_is_as_unknown_as_any_other(
    pool: PoolProcess, world: HomeWorld, model: Path, tmp_path: Path
) -> None:
    folder = make_adapter(model, tmp_path / "inactive", seed=20)
    digest = (await world.ingest(world.pack(folder))).digest
    name = str(EngineName(ACME, digest, 1))
    unknown = str(EngineName(ACME, type(digest)("0" * 64), 1))

    answer, other = await complete(pool, name, PROMPT, 1), await complete(pool, unknown, PROMPT, 1)

    assert answer.status_code == other.status_code == 404
    assert answer.text.replace(name, "") == other.text.replace(unknown, "")


async def test_the_right_digest_under_another_epoch_or_tenant_is_not_found(
    pool: PoolProcess, adapters: Adapters
) -> None:
    name = adapters.names["a"]
    for other in (EngineName(ACME, name.digest, 2), EngineName(GLOBEX, name.digest, 1)):
        assert (await complete(pool, str(other), PROMPT, 1)).status_code == 404


async def test_a_package_damaged_in_the_store_is_a_clear_error_that_shows_no_detail(
    pool: PoolProcess, world: HomeWorld, model: Path, tmp_path: Path
) -> None:
    name = await activate(pool, world, make_adapter(model, tmp_path / "damaged", seed=21))
    path = world.home / "objects" / PackagePaths(name.tenant, name.digest).package
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)

    answer = await complete(pool, str(name), PROMPT, 1)

    assert answer.status_code == 422
    message = answer.json()["error"]["message"]
    assert message.startswith("The adapter could not be loaded (")
    assert str(world.home) not in answer.text
    assert "chunk" not in message.partition("(")[0].lower()
    # Nothing of it is remembered: repaired, it is served.
    content[-100] ^= 1
    path.write_bytes(content)
    assert (await complete(pool, str(name), PROMPT, 1)).status_code == 200


async def test_a_folder_on_disk_is_never_loaded_even_by_vllms_own_route(
    pool: PoolProcess, adapters: Adapters
) -> None:
    body = {"lora_name": "mine", "lora_path": str(adapters.folders["a"])}
    async with pool.async_engine() as client:
        answer = await client.post("/v1/load_lora_adapter", json=body)

    assert answer.status_code >= 400
    assert (await complete(pool, "mine", PROMPT, 1)).status_code == 404
    assert (await complete(pool, SERVED, PROMPT, 1)).status_code == 200


async def test_a_refusal_in_a_step_ends_only_the_requests_of_that_adapter(
    pool: PoolProcess, world: HomeWorld, model: Path, adapters: Adapters, tmp_path: Path
) -> None:
    """Revoked and evicted while it streams: an error, no base-model text, and all others go on."""
    doomed_folder = make_adapter(model, tmp_path / "doomed", seed=30)
    doomed = await activate(pool, world, doomed_folder)
    others = [
        asyncio.create_task(token_ids(pool, adapters.model_name(who), PROMPT, 400))
        for who in ("base", "b")
    ]

    received: list[int] = []
    error: dict[str, Any] | None = None
    async with (
        pool.async_engine() as client,
        client.stream(
            "POST",
            "/v1/completions",
            json={
                "model": str(doomed),
                "prompt": LONG_PROMPT[:100],
                "max_tokens": 400,
                "temperature": 0,
                "ignore_eos": True,
                "return_token_ids": True,
                "stream": True,
            },
        ) as answer,
    ):
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                error = event["error"]
                continue
            if not received:
                await world.record(doomed.digest, "revoked", epoch=1)
                evicted = await anyio.to_thread.run_sync(pool.evict, doomed)
                assert evicted == {"resident": False}
            received += event["choices"][0].get("token_ids") or []

    assert error is not None
    assert error["code"] == 500
    assert 0 < len(received) < 400
    assert received == greedy(model, doomed_folder, LONG_PROMPT[:100], 400)[: len(received)]
    assert await asyncio.gather(*others) == [adapters.says(w, PROMPT, 400) for w in ("base", "b")]

    # The name stays refused, although its package is active again: its cached blocks are wrong.
    await world.record(doomed.digest, "active", epoch=1)
    again = await complete(pool, str(doomed), LONG_PROMPT[:100])
    assert again.status_code == 500
    assert "failed in use" in again.json()["error"]["message"]
    # A new epoch is a new name: right from its first token, whatever was cached before.
    await world.record(doomed.digest, "active", epoch=2)
    fresh = EngineName(doomed.tenant, doomed.digest, 2)
    assert await token_ids(pool, str(fresh), LONG_PROMPT[:100]) == greedy(
        model, doomed_folder, LONG_PROMPT[:100], TOKENS
    )


async def test_eviction_frees_the_engine_of_an_adapter_until_it_is_asked_for_again(
    pool: PoolProcess, adapters: Adapters
) -> None:
    name = adapters.names["c"]
    await token_ids(pool, str(name), PROMPT, 1)
    before = await engine_state(pool)

    first = await anyio.to_thread.run_sync(pool.evict, name)
    after = await engine_state(pool)
    second = await anyio.to_thread.run_sync(pool.evict, name)

    assert first == second == {"resident": False}
    assert str(name) in before["adapters"]
    assert str(name) not in after["adapters"]
    assert after["locks"] == before["locks"] - 1
    assert await token_ids(pool, str(name), PROMPT) == adapters.says("c", PROMPT)


async def test_prompts_can_be_scored_without_keeping_others_waiting(
    pool: PoolProcess, adapters: Adapters
) -> None:
    """Without care, the first such request compiles a kernel inside a step, for ten seconds."""
    with anyio.fail_after(5):
        answer = await complete(pool, adapters.model_name("b"), PROMPT, 1, prompt_logprobs=1)

    assert len(answer.json()["choices"][0]["prompt_logprobs"]) == len(PROMPT)


async def test_many_prompts_scored_at_once_end_no_engine_and_get_the_scores_of_one(
    pool: PoolProcess, adapters: Adapters
) -> None:
    """vLLM itself maps an adapter's rows as if only the last token of each prompt were there."""

    async def score(who: str) -> list[float]:
        more = {"echo": True, "logprobs": 0}
        answer = await complete(pool, adapters.model_name(who), LONG_PROMPT, 1, **more)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["choices"][0]["logprobs"]["token_logprobs"][1:-1])

    alone = {who: await score(who) for who in ("base", "a", "b")}
    together = await asyncio.gather(*(score(who) for who in [*alone, *alone]))

    for who, scores in zip([*alone, *alone], together, strict=True):
        assert scores == pytest.approx(alone[who], abs=1e-3)
    assert alone["base"] != pytest.approx(alone["a"], abs=1e-2)


async def test_the_control_api_describes_the_pool(pool: PoolProcess, world: HomeWorld) -> None:
    with pool.control as client:
        base = client.get("/control/v1/base-model").json()
        key = client.get("/control/v1/ingest-keys/acme").json()

    assert base == {
        "id": SERVED,
        "fingerprint": world.base_model.fingerprint,
        "max_lora_rank": 8,
        "max_model_len": 512,
    }
    assert key == json.loads(world.keys.ingest_public_key(ACME).to_json())
    assert pool.health() == {"status": "ready"}


async def test_an_adapter_of_too_large_a_rank_is_refused_at_admission(
    pool: PoolProcess, world: HomeWorld, model: Path, tmp_path: Path
) -> None:
    folder = make_adapter(model, tmp_path / "wide", seed=22, rank=16)
    digest = (await world.ingest(world.pack(folder))).digest
    await world.record(digest, "admitting", epoch=1)

    answer = pool.admit(digest)

    assert answer.status_code == 422
    assert answer.json()["error"]["code"]
    assert "8" in answer.json()["error"]["message"]


async def test_only_the_owner_can_reach_the_sockets(pool: PoolProcess) -> None:
    folder = pool.home / "pool"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


async def test_no_prompt_appears_in_any_log(pool: PoolProcess, adapters: Adapters) -> None:
    secret = "xyzzy-prompt-marker"
    await complete(pool, adapters.model_name("a"), secret)
    await complete(pool, "no-such-model", secret)
    await complete(pool, SERVED, secret, 10_000)  # too long: a validation error
    async with pool.async_engine() as client:
        await client.post("/v1/completions", content=b'{"prompt": "' + secret.encode())

    log = pool.log.read_text()
    assert secret not in log
    assert "Starting vLLM server" in log, "control: the log is the engine's"


async def test_decrypted_tensors_are_nowhere_on_any_disk(
    pool: PoolProcess, adapters: Adapters
) -> None:
    for who in ("a", "b", "c"):
        await token_ids(pool, adapters.model_name(who), PROMPT, 2)
    needles = [
        tensor.tobytes()[:64]
        for folder in adapters.folders.values()
        for tensor in load_file(folder / "adapter_model.safetensors").values()
    ]
    places = [pool.home, scratch_directory(pool.home / "pool"), Path("/dev/shm")]

    found = [path for place in places for path in files_with(needles, place)]

    assert found == []
    # Control: the same search finds them where the publisher has them.
    assert list(files_with(needles, adapters.folders["a"]))


def files_with(needles: list[bytes], place: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(place):
        for name in names:
            path = Path(folder) / name
            if not path.is_file() or path.is_socket():
                continue
            content = path.read_bytes()
            if any(needle in content for needle in needles):
                yield path
