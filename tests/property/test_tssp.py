"""TSSP under arbitrary input: what is genuine comes through whole, nothing else comes through."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_store import canonical, errors
from adapter_store.base_model import BaseModel
from adapter_store.ingest import PackageIngest
from adapter_store.loading import PackageLoader
from adapter_store.objects.paths import PackagePaths
from adapter_store.peft.config import AdapterConfig, parse_adapter_config
from adapter_store.peft.safetensors import parse_header, reader_of
from adapter_store.tssp.container import HeaderParser
from adapter_store.tssp.encryption import DataKey
from adapter_store.tssp.format import MANIFEST_TYPE, MAX_RANK, SEALED_CHUNK_BYTES, Limits
from adapter_store.tssp.manifest import parse_manifest
from adapter_store.tssp.reader import PackageVerifier
from adapter_store.tssp.signing import envelope_payload
from adapter_store.types import EngineName
from tests.fakes.packages import (
    ACME,
    CONFIG,
    FEATURES,
    World,
    adapter_folder,
    lora_tensors,
    parse,
    pieces,
    safetensors,
)

few = settings(max_examples=30, deadline=None)
many = settings(max_examples=300, deadline=None)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@cache
def world() -> World:
    """One publisher for all examples; each example brings its own store."""
    return World()


@cache
def small_package() -> bytes:
    with TemporaryDirectory() as folder:
        return world().pack(adapter_folder(Path(folder)))


@cache
def small_manifest() -> bytes:
    return envelope_payload(parse(small_package())[0].envelope, MANIFEST_TYPE)


def refusal(package: bytes) -> errors.AdapterStoreError:
    """Take a package all the way; return the error that stopped it, or fail."""
    fresh = World(publisher=world().publisher, activation_key=world().activation_key)
    try:
        asyncio.run(fresh.activated(package))
    except errors.AdapterStoreError as error:
        stored = asyncio.run(fresh.stored())
        assert not [path for path in stored if path.endswith("data_key.json")]
        return error
    raise AssertionError("a damaged package was admitted")


@few
@given(
    modules=st.integers(1, 5),
    rank=st.integers(1, 9),
    seed=st.integers(0, 2**32),
    piece=st.integers(1, 5000),
)
def test_whatever_is_packed_is_loaded_bit_for_bit(
    modules: int, rank: int, seed: int, piece: int
) -> None:
    names = [f"model.layers.{number}.q_proj" for number in range(modules)]
    tensors = safetensors(lora_tensors(seed=seed, modules=names, rank=rank))
    own = World(base_model=BaseModel("ba5e" * 16, dict.fromkeys(names, (FEATURES, FEATURES))))

    async def round_trip() -> bytes:
        with TemporaryDirectory() as folder:
            config = CONFIG | {"r": rank}
            package = own.pack(adapter_folder(Path(folder), config=config, tensors=tensors))
        ingested = await PackageIngest(own.objects).ingest(
            pieces(package, piece),
            tenant=ACME,
            trusted=[own.publisher.public_key],
            base_fingerprint=own.base_model.fingerprint,
            max_bytes=1 << 24,
        )
        await own.record(ingested.digest, "active")
        own.loader().admit(ACME, ingested.digest)
        return bytes(own.loader().load(EngineName(ACME, ingested.digest, 0)).tensors)

    assert asyncio.run(round_trip()) == tensors


@few
@given(bit=st.integers(0, 8 * 16_384 - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    package = bytearray(small_package())
    index = bit // 8 % len(package)
    package[index] ^= 1 << bit % 8
    error = refusal(bytes(package))
    header, payload = parse(small_package())
    if index >= len(package) - len(payload):
        assert type(error) is errors.DigestMismatchError
    elif index < 12 + len(header.envelope):
        assert isinstance(error, errors.FormatError | errors.SignatureError)
    else:
        assert isinstance(error, errors.FormatError | errors.KeyProviderError)


@few
@given(data=st.data())
def test_any_truncation_is_refused_as_one(data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(small_package()) - 1))
    assert type(refusal(small_package()[:length])) is errors.TruncatedError


@few
@given(extra=st.binary(min_size=1, max_size=100))
def test_any_byte_too_many_is_refused_as_one(extra: bytes) -> None:
    assert type(refusal(small_package() + extra)) is errors.TrailingDataError


class Admitted:
    """A package of four chunks of tensors, admitted; the store's bytes are the attacker's."""

    def __init__(self, *, seed: int) -> None:
        modules = [f"model.layers.{number}.q_proj" for number in range(50)]
        self.world = World(
            base_model=BaseModel("ba5e" * 16, dict.fromkeys(modules, (FEATURES, FEATURES)))
        )
        self.tensors = safetensors(lora_tensors(seed=seed, modules=modules, rank=MAX_RANK))
        with TemporaryDirectory() as folder:
            config = CONFIG | {"r": MAX_RANK}
            adapter = adapter_folder(Path(folder), config=config, tensors=self.tensors)
            package = self.world.pack(adapter)
        self.name = asyncio.run(self.world.activated(package))
        self.path = PackagePaths(ACME, self.name.digest).package
        stored = asyncio.run(self.world.stored())[self.path]
        first = json.loads(envelope_payload(parse(stored)[0].envelope, MANIFEST_TYPE))["files"][0]
        start = len(stored) - len(parse(stored)[1]) + first["ciphertext_size"]
        self.head, tail = stored[:start], stored[start:]
        self.chunks = [
            tail[at : at + SEALED_CHUNK_BYTES] for at in range(0, len(tail), SEALED_CHUNK_BYTES)
        ]

    @property
    def loader(self) -> PackageLoader:
        return self.world.loader()

    def load(self, chunks: list[bytes]) -> bytes:
        self.world.objects.replace_sync(self.path, self.head + b"".join(chunks))
        return bytes(self.loader.load(self.name).tensors)


@cache
def admitted(seed: int = 0) -> Admitted:
    return Admitted(seed=seed)


def test_the_chunks_that_the_attacks_below_rearrange_load_as_they_are() -> None:
    assert len(admitted().chunks) == 4
    assert admitted().load(admitted().chunks) == admitted().tensors


@few
@given(order=st.permutations(range(3)).filter(lambda order: list(order) != [0, 1, 2]))
def test_chunks_in_any_other_order_do_not_open(order: list[int]) -> None:
    chunks = admitted().chunks
    with pytest.raises(errors.ChunkError):
        admitted().load([chunks[number] for number in order] + chunks[3:])


@few
@given(source=st.integers(0, 2), target=st.integers(0, 2))
def test_a_chunk_in_place_of_another_does_not_open(source: int, target: int) -> None:
    chunks = list(admitted().chunks)
    chunks[target] = chunks[source]
    if source == target:
        assert admitted().load(chunks) == admitted().tensors
    else:
        with pytest.raises(errors.ChunkError):
            admitted().load(chunks)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_a_file_cut_at_a_chunk_is_noticed(kept: int) -> None:
    with pytest.raises(errors.TruncatedError):
        admitted().load(admitted().chunks[:kept])


@few
@given(number=st.integers(0, 3))
def test_a_chunk_of_another_package_does_not_open(number: int) -> None:
    chunks = list(admitted().chunks)
    chunks[number] = admitted(1).chunks[number]
    with pytest.raises(errors.ChunkError):
        admitted().load(chunks)


@few
@given(number=st.integers(0, 3), bit=st.integers(0, 7), data=st.data())
def test_a_flipped_bit_in_any_chunk_is_noticed(number: int, bit: int, data: st.DataObject) -> None:
    chunks = list(admitted().chunks)
    changed = bytearray(chunks[number])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << bit
    chunks[number] = bytes(changed)
    with pytest.raises(errors.ChunkError):
        admitted().load(chunks)


@many
@given(data=st.binary(max_size=200))
def test_no_bytes_make_the_header_parser_raise_anything_else(data: bytes) -> None:
    for prefix in (b"", b"TSSP\x01\r\n\x1a", small_package()[:8]):
        parser = HeaderParser()
        try:
            parser.feed(prefix + data)
            parser.finish()
        except errors.FormatError:
            pass


@many
@given(data=st.binary(max_size=300), cut=st.integers(0, 8_000))
def test_no_bytes_make_the_verifier_raise_anything_else(data: bytes, cut: int) -> None:
    package = small_package()
    verifier = PackageVerifier([world().publisher.public_key], (), Limits())
    one_byte_short = package[:cut] + data + package[cut + len(data) + 1 :]

    def verify() -> None:
        verifier.feed(one_byte_short)
        verifier.finish()

    with pytest.raises(errors.AdapterStoreError):
        verify()


@many
@given(data=st.binary(max_size=300))
def test_no_bytes_make_the_tensor_header_raise_anything_else(data: bytes) -> None:
    for file in (data, len(data).to_bytes(8, "little") + data):
        with suppress(errors.TensorFileError):
            parse_header(reader_of(file), len(file))


@many
@given(name=st.text(), entry=JSON, size=st.integers(0, 64))
def test_no_json_makes_the_tensor_header_raise_anything_else(
    name: str, entry: Any, size: int
) -> None:
    header = json.dumps({name: entry, "base_model.model.a.lora_A.weight": entry}).encode()
    file = len(header).to_bytes(8, "little") + header + bytes(size)
    with pytest.raises(errors.TensorFileError):
        parse_header(reader_of(file), len(file))


@many
@given(name=st.sampled_from(sorted(CONFIG)) | st.text(), value=JSON)
def test_no_json_makes_the_config_raise_anything_else(name: str, value: Any) -> None:
    try:
        config = parse_adapter_config(json.dumps(CONFIG | {name: value}).encode())
    except errors.AdapterConfigError:
        return
    assert isinstance(config, AdapterConfig)
    assert parse_adapter_config(config.to_peft_json()) == config


@many
@given(data=st.data(), value=JSON)
def test_no_manifest_makes_its_parser_raise_anything_else(data: st.DataObject, value: Any) -> None:
    manifest = json.loads(small_manifest())
    path = data.draw(
        st.sampled_from(["", "files", "base_model", "adapter", "encryption", "privacy"])
    )
    target = manifest[path] if path else manifest
    key = data.draw(st.sampled_from([0, 1] if isinstance(target, list) else sorted(target)))
    target[key] = value
    try:
        encoded = canonical.encode(manifest)
    except ValueError:  # a number that canonical JSON has no form for
        return
    try:
        parsed = parse_manifest(encoded)
    except errors.FormatError:
        return
    assert parsed.to_bytes() == encoded


@many
@given(secret=st.binary(min_size=32, max_size=32), other=st.binary(min_size=32, max_size=32))
def test_a_commitment_names_one_key_only(secret: bytes, other: bytes) -> None:
    same = DataKey(secret).commitment("id") == DataKey(other).commitment("id")
    assert same == (secret == other)
