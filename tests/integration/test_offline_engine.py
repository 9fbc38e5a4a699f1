"""The offline engine: a package, a key and a model, in a script of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.audit import AuditError, read_audit_log
from tests.fakes.pool_process import HomeWorld
from tests.fakes.tiny_llama import greedy, make_adapter, make_model

pytestmark = [pytest.mark.engine, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
PROMPT = [256, *range(65, 95)]
TOKENS = 24

SCRIPT = """
import json, sys
from pathlib import Path

from adapter_store.errors import AdapterStoreError
from adapter_store.tssp.signing import PublisherPublicKey
from runtime.engine import TenSafeVLLMConfig, TenSafeVLLMEngine
from vllm import SamplingParams


def main():
    options = json.loads(sys.argv[1])
    publisher = PublisherPublicKey.from_json(Path(options.pop("publisher")).read_bytes())
    config = TenSafeVLLMConfig(trusted_publishers=[publisher], **options)
    with TenSafeVLLMEngine(config) as engine:
        outputs = engine.generate(
            {"prompt_token_ids": PROMPT},
            SamplingParams(max_tokens=TOKENS, temperature=0, ignore_eos=True),
            request_id="request-1",
        )
    print(json.dumps(list(outputs[0].outputs[0].token_ids)))


if __name__ == "__main__":
    try:
        main()
    except AdapterStoreError as error:
        sys.exit(f"refused: {error.code}")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(model, tmp_path_factory.mktemp("adapter"), seed=1)


@pytest.fixture
def world(model: Path) -> Iterator[HomeWorld]:
    with tempfile.TemporaryDirectory(prefix="ts-test-") as home:
        yield HomeWorld.create(Path(home), model)


def run_script(
    world: HomeWorld, model: Path, package: bytes, **more: object
) -> subprocess.CompletedProcess[str]:
    home = world.home
    (home / "package.tssp").write_bytes(package)
    (home / "publisher.json").write_bytes(world.publisher.public_key.to_json())
    script = home / "script.py"
    script.write_text(SCRIPT.replace("PROMPT", repr(PROMPT)).replace("TOKENS", repr(TOKENS)))
    options = {
        "model_path": str(model),
        "tssp_package_path": str(home / "package.tssp"),
        "tenant": "acme",
        "publisher": str(home / "publisher.json"),
        "keyring": str(home / "keys" / "pool.json"),
        "dtype": "float32",
        "max_model_len": 256,
        "max_lora_rank": 8,
        "kv_cache_gib": 0.25,
        "audit_log_path": str(home / "audit.jsonl"),
    }
    return subprocess.run(
        [sys.executable, str(script), json.dumps(options | more)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        timeout=280,
    )


def test_an_offline_engine_says_what_peft_says_and_records_it_without_content(
    world: HomeWorld, model: Path, folder: Path
) -> None:
    ended = run_script(world, model, world.pack(folder))

    assert ended.returncode == 0, ended.stderr[-4000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found == greedy(model, folder, PROMPT, TOKENS)
    assert found != greedy(model, None, PROMPT, TOKENS), "control: the base model says otherwise"

    log = world.home / "audit.jsonl"
    records = list(read_audit_log(log))
    assert [record.event.kind for record in records] == [
        "TSSP_PACKAGE_LOADED",
        "INFERENCE_START",
        "INFERENCE_COMPLETE",
    ]
    assert records[2].event.completion_tokens == TOKENS
    assert records[2].event.prompt_tokens == len(PROMPT)
    assert {record.event.request_id for record in records[1:]} == {"request-1"}
    log.write_bytes(log.read_bytes().replace(b'"prompts":1', b'"prompts":2', 1))
    with pytest.raises(AuditError):
        list(read_audit_log(log))
    assert not list(Path(tempfile.gettempdir()).glob("tensafe-offline-*")), "nothing is left"


def test_two_workers_say_what_one_says(world: HomeWorld, model: Path, folder: Path) -> None:
    ended = run_script(
        world, model, world.pack(folder), tensor_parallel_size=2, enable_audit_logging=False
    )

    assert ended.returncode == 0, ended.stderr[-4000:]
    assert json.loads(ended.stdout.splitlines()[-1]) == greedy(model, folder, PROMPT, TOKENS)
    assert not (world.home / "audit.jsonl").exists()


def test_a_tampered_package_is_refused_before_any_engine_is_started(
    world: HomeWorld, model: Path, folder: Path
) -> None:
    package = bytearray(world.pack(folder))
    package[-50] ^= 1

    ended = run_script(world, model, bytes(package))

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("refused: ")
