"""The committed vectors: every known answer is found, every hostile file is refused as it says."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from adapter_store.errors import AdapterStoreError
from adapter_store.keys.local import LocalKeyProvider
from adapter_store.tssp.signing import PublisherPrivateKey
from adapter_store.types import EngineName
from tests.fakes.forgery import FORGERIES
from tests.fakes.packages import (
    ACME,
    World,
    adapter_folder,
    lora_tensors,
    parse,
    safetensors,
)
from tests.vectors.tssp import plain_decoder
from tests.vectors.tssp.generate import KNOWN, POOL, known_package

HERE = Path(__file__).parent
ANSWERS = json.loads((HERE / "known/answers.json").read_text())
ERRORS = json.loads((HERE / "hostile/errors.json").read_text())
PUBLISHER = PublisherPrivateKey(
    **{f"{name}_seed": bytes.fromhex(seed) for name, seed in ANSWERS["publisher_seeds"].items()}
)


class VectorWorld(World):
    """The deployment that the vectors were made for."""

    @property
    def keys(self) -> LocalKeyProvider:
        return LocalKeyProvider(POOL)


@pytest.fixture
def world() -> World:
    return VectorWorld(publisher=PUBLISHER)


def decoded(package: bytes, ingest_seed: bytes) -> Any:
    key = PUBLISHER.public_key
    return plain_decoder.decode(
        package, ed25519=key.ed25519, mldsa65=key.mldsa65, ingest_seed=ingest_seed
    )


def known(name: str) -> bytes:
    return (HERE / "known" / f"{name}.tssp").read_bytes()


def test_the_files_are_the_ones_that_are_listed() -> None:
    assert {path.stem for path in (HERE / "known").glob("*.tssp")} == ANSWERS["packages"].keys()
    assert {path.stem for path in (HERE / "hostile").glob("*.tssp")} == ERRORS.keys()
    assert {name: forgery.error.code for name, forgery in FORGERIES.items()} == ERRORS


@pytest.mark.parametrize("name", ANSWERS["packages"])
def test_a_reader_that_shares_no_code_finds_the_known_answers(name: str) -> None:
    _, digest, data_key, files = decoded(known(name), bytes.fromhex(ANSWERS["ingest_key_seed"]))
    found = {
        "digest": digest,
        "data_key": data_key.hex(),
        "files": {path: hashlib.sha256(data).hexdigest() for path, data in files.items()},
    }
    assert found == ANSWERS["packages"][name]


@pytest.mark.parametrize("name", ANSWERS["packages"])
def test_the_store_finds_the_known_answers(world: World, name: str) -> None:
    async def load() -> tuple[str, bytes]:
        digest = (await world.ingest(known(name))).digest
        await world.record(digest, "active")
        world.loader().admit(ACME, digest)
        return digest, bytes(world.loader().load(EngineName(ACME, digest, 0)).tensors)

    digest, tensors = asyncio.run(load())
    answer = ANSWERS["packages"][name]
    assert digest == answer["digest"]
    assert hashlib.sha256(tensors).hexdigest() == answer["files"]["adapter_model.safetensors"]


@pytest.mark.parametrize("name", KNOWN)
def test_the_writer_still_writes_the_known_manifest_and_payload(name: str) -> None:
    header, payload = parse(known_package(**KNOWN[name]))
    known_header, known_payload = parse(known(name))
    assert payload == known_payload
    envelope, known_envelope = json.loads(header.envelope), json.loads(known_header.envelope)
    assert envelope["payload"] == known_envelope["payload"]
    assert envelope["signatures"][0] == known_envelope["signatures"][0]  # Ed25519 is deterministic


@pytest.mark.parametrize("name", ERRORS)
def test_a_hostile_package_is_refused_as_listed(world: World, name: str) -> None:
    package = (HERE / "hostile" / f"{name}.tssp").read_bytes()
    with pytest.raises(AdapterStoreError) as caught:
        asyncio.run(world.ingest(package))
    assert caught.value.code == ERRORS[name]
    assert asyncio.run(world.stored()) == {}


def test_a_package_of_several_chunks_reads_the_same_without_our_code(tmp_path: Path) -> None:
    world = VectorWorld(publisher=PUBLISHER)
    config = {"peft_type": "LORA", "r": 512, "lora_alpha": 2, "target_modules": ["q_proj"]}
    modules = [f"layers.{number}.q_proj" for number in range(40)]
    tensors = safetensors(lora_tensors(modules=modules, rank=512))
    assert len(tensors) > 2 << 20
    package = world.pack(adapter_folder(tmp_path / "adapter", config=config, tensors=tensors))
    _, _, _, files = decoded(package, bytes.fromhex(ANSWERS["ingest_key_seed"]))
    assert files["adapter_model.safetensors"] == tensors
