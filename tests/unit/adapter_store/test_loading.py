"""The pool admits what the gateway allows, loads what is active, and fails clearly otherwise."""

from __future__ import annotations

import base64
import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_store import errors
from adapter_store.base_model import BaseModel
from adapter_store.objects.paths import PackagePaths
from adapter_store.tssp.container import Header
from adapter_store.tssp.format import MANIFEST_TYPE
from adapter_store.tssp.manifest import parse_manifest
from adapter_store.tssp.recipients import (
    WrappedDataKey,
    decode_recipients,
    encode_recipients,
    seal_data_key,
)
from adapter_store.tssp.signing import PublisherPrivateKey, envelope_payload
from adapter_store.types import Digest, EngineName
from tests.fakes.forgery import Forger
from tests.fakes.packages import (
    ACME,
    BASE_MODEL,
    CONFIG,
    FEATURES,
    GLOBEX,
    MODULES,
    World,
    adapter_folder,
    lora_tensors,
    parse,
    safetensors,
)

pytestmark = pytest.mark.anyio


async def admitted(world: World, package: bytes) -> Digest:
    """Take a package as far as it goes without a check of what is inside."""
    digest = (await world.ingest(package)).digest
    await world.record(digest, "admitting")
    return digest


async def test_what_was_packed_is_what_is_loaded(world: World, adapter: Path) -> None:
    name = await world.activated(world.pack(adapter))
    loaded = world.loader().load(name)
    assert bytes(loaded.tensors) == (adapter / "adapter_model.safetensors").read_bytes()
    assert loaded.config.r == CONFIG["r"]
    assert json.loads(loaded.config_json)["target_modules"] == CONFIG["target_modules"]


async def test_admission_reports_what_it_found(world: World, adapter: Path) -> None:
    digest = await admitted(world, world.pack(adapter))
    report = world.loader().admit(ACME, digest)
    assert (report.modules, report.max_rank, report.dtypes) == (4, 4, ("F32",))
    assert report.parameters == 4 * 2 * 4 * FEATURES


async def test_admission_swaps_the_uploaded_recipients_for_its_own_data_key(
    world: World, adapter: Path
) -> None:
    name = await world.activated(world.pack(adapter))
    paths = PackagePaths(ACME, name.digest)
    stored = await world.stored()
    assert stored.keys() == {paths.package, paths.data_key, paths.activation}


async def test_admission_can_be_repeated(world: World, adapter: Path) -> None:
    name = await world.activated(world.pack(adapter))
    before = await world.stored()
    world.loader().admit(ACME, name.digest)
    assert await world.stored() == before


async def test_admission_goes_on_where_a_crash_left_it(world: World, adapter: Path) -> None:
    package = world.pack(adapter)
    name = await world.activated(package)
    paths = PackagePaths(ACME, name.digest)
    await world.objects.replace(paths.recipients, parse(package)[0].recipients)
    world.loader().admit(ACME, name.digest)
    assert paths.recipients not in await world.stored()


async def test_deleting_the_data_key_shreds_the_package(world: World, adapter: Path) -> None:
    name = await world.activated(world.pack(adapter))
    await world.objects.delete(PackagePaths(ACME, name.digest).data_key)
    with pytest.raises(errors.KeyNotFoundError, match="shredded"):
        world.loader().load(name)
    with pytest.raises(errors.KeyNotFoundError, match="shredded"):
        world.loader().admit(ACME, name.digest)


async def test_nothing_in_the_store_contains_a_tensor_or_a_data_key(
    world: World, adapter: Path
) -> None:
    await world.activated(world.pack(adapter))
    everything = b"".join((await world.stored()).values())
    plaintext = (adapter / "adapter_model.safetensors").read_bytes()
    tensors = [plaintext[start : start + 16] for start in range(1024, len(plaintext), 256)]
    assert tensors
    assert not [part for part in tensors if part in everything]


async def test_memory_is_asked_for_where_the_engine_wants_it(world: World, adapter: Path) -> None:
    name = await world.activated(world.pack(adapter))
    memory = bytearray()

    def allocate(size: int) -> memoryview:
        memory.extend(bytes(size))
        return memoryview(memory)

    world.loader().load(name, allocate)
    assert memory == (adapter / "adapter_model.safetensors").read_bytes()


async def test_several_threads_may_load_at_once(world: World, adapter: Path) -> None:
    name = await world.activated(world.pack(adapter))
    loader, loaded = world.loader(), []
    threads = [
        threading.Thread(target=lambda: loaded.append(bytes(loader.load(name).tensors)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == [(adapter / "adapter_model.safetensors").read_bytes()] * 4


async def test_a_package_without_a_record_is_not_opened(world: World, adapter: Path) -> None:
    digest = (await world.ingest(world.pack(adapter))).digest
    with pytest.raises(errors.NotActiveError, match="never activated"):
        world.loader().admit(ACME, digest)


@pytest.mark.parametrize("state", ["admitting", "revoked"])
async def test_only_an_active_adapter_is_loaded(world: World, adapter: Path, state: Any) -> None:
    name = await world.activated(world.pack(adapter))
    await world.record(name.digest, state)
    with pytest.raises(errors.NotActiveError, match=f"found {state}"):
        world.loader().load(name)


async def test_a_revoked_adapter_is_not_admitted(world: World, adapter: Path) -> None:
    digest = (await world.ingest(world.pack(adapter))).digest
    await world.record(digest, "revoked")
    with pytest.raises(errors.NotActiveError):
        world.loader().admit(ACME, digest)


async def test_an_expired_activation_loads_nothing(world: World, adapter: Path) -> None:
    name = await world.activated(world.pack(adapter))
    world.time += timedelta(days=1)
    with pytest.raises(errors.RecordExpiredError):
        world.loader().load(name)


async def test_another_epoch_is_not_loaded(world: World, adapter: Path) -> None:
    name = await world.activated(world.pack(adapter))
    await world.record(name.digest, "active", epoch=1)
    with pytest.raises(errors.WrongEpochError, match="expected 1, found 0"):
        world.loader().load(name)
    world.loader().load(EngineName(ACME, name.digest, 1))


async def test_a_record_that_the_gateway_did_not_sign_counts_for_nothing(
    world: World, adapter: Path
) -> None:
    name = await world.activated(world.pack(adapter))
    gateway, world.activation_key = world.activation_key, PublisherPrivateKey.generate()
    await world.record(name.digest, "active")
    with pytest.raises(errors.UnknownSignerError):
        world.loader(activation_key=gateway.public_key).load(name)


async def test_the_record_of_another_package_counts_for_nothing(
    world: World, adapter: Path, tmp_path: Path
) -> None:
    name = await world.activated(world.pack(adapter))
    other = await world.ingest(world.pack(adapter_folder(tmp_path / "other", seed=1)))
    record = await world.objects.read(PackagePaths(ACME, name.digest).activation, max_bytes=1 << 20)
    await world.objects.replace(PackagePaths(ACME, other.digest).activation, record)
    with pytest.raises(errors.NotActiveError, match="activation record"):
        world.loader().admit(ACME, other.digest)


async def test_a_package_copied_to_another_tenant_is_not_loaded(
    world: World, adapter: Path
) -> None:
    name = await world.activated(world.pack(adapter))
    source, target = PackagePaths(ACME, name.digest), PackagePaths(GLOBEX, name.digest)
    for path, copy in ((source.package, target.package), (source.data_key, target.data_key)):
        await world.objects.replace(copy, await world.objects.read(path, max_bytes=1 << 20))
    await world.record(name.digest, "active", tenant=GLOBEX)
    with pytest.raises(errors.WrongTenantError):
        world.loader().load(EngineName(GLOBEX, name.digest, 0))


async def test_a_package_for_another_base_model_is_not_loaded(world: World, adapter: Path) -> None:
    name = await world.activated(world.pack(adapter))
    with pytest.raises(errors.WrongBaseModelError):
        world.loader(base_model=BaseModel("f" * 64, BASE_MODEL.shapes)).load(name)


async def test_a_package_under_the_name_of_another_is_not_loaded(
    world: World, adapter: Path, tmp_path: Path
) -> None:
    name = await world.activated(world.pack(adapter))
    other = await world.activated(world.pack(adapter_folder(tmp_path / "other", seed=1)))
    stored = await world.stored()
    await world.objects.replace(
        PackagePaths(ACME, name.digest).package, stored[PackagePaths(ACME, other.digest).package]
    )
    with pytest.raises(errors.DigestMismatchError):
        world.loader().load(name)


async def test_the_data_key_of_another_package_opens_nothing(
    world: World, adapter: Path, tmp_path: Path
) -> None:
    name = await world.activated(world.pack(adapter))
    other = await world.activated(world.pack(adapter_folder(tmp_path / "other", seed=1)))
    stored = await world.stored()
    await world.objects.replace(
        PackagePaths(ACME, name.digest).data_key, stored[PackagePaths(ACME, other.digest).data_key]
    )
    with pytest.raises(errors.KeyRefusedError):
        world.loader().load(name)


async def test_recipients_of_another_package_open_nothing(
    world: World, adapter: Path, forger: Forger
) -> None:
    digest = await admitted(world, forger.recipients(parse(forger.other)[0].recipients))
    with pytest.raises(errors.KeyRefusedError):
        world.loader().admit(ACME, digest)


async def test_a_package_that_nobody_here_can_open_is_refused(world: World, adapter: Path) -> None:
    package = world.pack(adapter, recipients=[world.keys.ingest_public_key(GLOBEX)])
    digest = await admitted(world, package)
    with pytest.raises(errors.InvalidRecipientsError, match="no recipient"):
        world.loader().admit(ACME, digest)


async def test_one_recipient_among_several_is_enough(world: World, adapter: Path) -> None:
    keys = [world.keys.ingest_public_key(tenant) for tenant in (GLOBEX, ACME)]
    digest = await admitted(world, world.pack(adapter, recipients=keys))
    world.loader().admit(ACME, digest)


async def test_a_data_key_wrapped_by_the_provider_itself_is_a_recipient_too(
    world: World, adapter: Path
) -> None:
    package = world.pack(adapter)
    name = await world.activated(package)
    paths = PackagePaths(ACME, name.digest)
    wrapped = await world.objects.read(paths.data_key, max_bytes=1 << 20)
    assert WrappedDataKey.from_json(wrapped).provider == "local"
    world.objects = World().objects
    header, payload = parse(package)
    digest = await admitted(
        world, Header(header.envelope, b"[" + wrapped + b"]").to_bytes() + payload
    )
    world.loader().admit(ACME, digest)


async def test_a_publisher_who_commits_to_another_key_is_refused(
    world: World, forger: Forger
) -> None:
    def other_commitment(manifest: dict[str, Any]) -> None:
        manifest["encryption"]["key_commitment"] = "0" * 64

    package = forger.manifest(other_commitment)
    digest = await admitted(world, reseal(world, forger, package))
    with pytest.raises(errors.KeyCommitmentError):
        world.loader().admit(ACME, digest)


def swapped_payload(forger: Forger) -> bytes:
    """A publisher signs the payload of another package of theirs as this one's."""
    header, payload = parse(forger.other)
    other = json.loads(base64.b64decode(json.loads(header.envelope)["payload"]))
    package = forger.manifest(lambda manifest: manifest.update(files=other["files"]))
    return parse(package)[0].to_bytes() + payload


async def test_a_payload_of_another_package_does_not_open_even_if_signed(
    world: World, forger: Forger
) -> None:
    digest = await admitted(world, reseal(world, forger, swapped_payload(forger)))
    with pytest.raises(errors.ChunkError, match=r"chunk 1 of 1 of adapter_config\.json"):
        world.loader().admit(ACME, digest)


def reseal(world: World, forger: Forger, package: bytes) -> bytes:
    """Seal the genuine data key for a forged manifest, as its publisher can."""
    genuine, _ = parse(forger.package)
    (sealed,) = decode_recipients(genuine.recipients)
    digest = parse_manifest(envelope_payload(genuine.envelope, MANIFEST_TYPE)).digest
    key = world.keys.open_ingest(ACME, sealed, digest)
    header, payload = parse(package)
    forged = parse_manifest(envelope_payload(header.envelope, MANIFEST_TYPE)).digest
    recipient = seal_data_key(key, world.keys.ingest_public_key(ACME), tenant=ACME, digest=forged)
    return Header(header.envelope, encode_recipients((recipient,))).to_bytes() + payload


async def test_a_manifest_that_says_something_else_than_the_config_is_refused(
    world: World, forger: Forger
) -> None:
    """The binding covers the manifest's own view of the config, so nothing even decrypts."""
    package = forger.manifest(lambda manifest: manifest["adapter"].update(alpha=9))
    digest = await admitted(world, reseal(world, forger, package))
    with pytest.raises(errors.ChunkError):
        world.loader().admit(ACME, digest)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({MODULES[0]: (FEATURES, FEATURES)}, "expected a linear module of the base model"),
        (dict.fromkeys(MODULES, (FEATURES, 2 * FEATURES)), "features"),
    ],
)
async def test_an_adapter_that_does_not_fit_the_base_model_is_refused_and_its_key_not_kept(
    world: World, adapter: Path, shapes: dict[str, tuple[int, int]], message: str
) -> None:
    digest = await admitted(world, world.pack(adapter))
    with pytest.raises(errors.TensorFileError, match=message):
        world.loader(base_model=BaseModel(BASE_MODEL.fingerprint, shapes)).admit(ACME, digest)
    assert PackagePaths(ACME, digest).data_key not in await world.stored()


async def test_a_nan_that_a_publisher_packs_with_tools_of_their_own_is_refused(
    world: World, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = lora_tensors()
    next(iter(tensors.values()))[0, 0] = np.nan
    (adapter / "adapter_model.safetensors").write_bytes(safetensors(tensors))
    with pytest.raises(errors.TensorFileError, match="finite"):
        world.pack(adapter)
    monkeypatch.setattr("adapter_store.tssp.writer.check_adapter", lambda *_, **__: None)
    digest = await admitted(world, world.pack(adapter))
    with pytest.raises(errors.TensorFileError, match="finite"):
        world.loader().admit(ACME, digest)


async def test_decrypted_memory_is_wiped_when_a_later_chunk_does_not_open(
    world: World, tmp_path: Path
) -> None:
    modules = tuple(f"model.layers.{number}.self_attn.q_proj" for number in range(4_000))
    world.base_model = BaseModel(
        BASE_MODEL.fingerprint, dict.fromkeys(modules, (FEATURES, FEATURES))
    )
    tensors = safetensors(lora_tensors(modules=modules))
    assert len(tensors) > 2 << 20
    name = await world.activated(world.pack(adapter_folder(tmp_path / "big", tensors=tensors)))
    path = PackagePaths(ACME, name.digest).package
    package = bytearray(await world.objects.read(path, max_bytes=1 << 24))
    package[-1] ^= 1
    await world.objects.replace(path, bytes(package))
    memory = bytearray(b"\xff" * len(tensors))
    with pytest.raises(errors.ChunkError):
        world.loader().load(name, lambda size: memoryview(memory)[:size])
    assert not any(memory)
