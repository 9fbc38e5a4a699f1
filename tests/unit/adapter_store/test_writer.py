"""Packing: an adapter's folder in, one package out, or a clear word about what is in the way."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from adapter_store import errors
from adapter_store.tssp.format import MANIFEST_TYPE
from adapter_store.tssp.manifest import parse_manifest
from adapter_store.tssp.privacy import (
    DpSgdPrivacy,
    GaussianDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from adapter_store.tssp.signing import envelope_payload
from tests.fakes.packages import CONFIG, World, adapter_folder, lora_tensors, parse, safetensors

DP = DpSgdPrivacy(
    dataset="tickets",
    unit="example",
    sampling="poisson",
    events=(
        SelfComposedDpEvent(
            event=PoissonSampledDpEvent(
                sampling_probability=0.01, event=GaussianDpEvent(noise_multiplier=1.1)
            ),
            count=1000,
        ),
    ),
    delta=1e-5,
    claimed_epsilon=2.5,
    accountant="rdp",
    library_versions={"opacus": "1.6.0"},
)


def manifest_of(package: bytes) -> Any:
    return json.loads(envelope_payload(parse(package)[0].envelope, MANIFEST_TYPE))


def test_the_manifest_says_what_was_packed(world: World, adapter: Path) -> None:
    package = world.pack(
        adapter, description="for support", license="Apache-2.0", supersedes="d" * 64, version=7
    )
    manifest = manifest_of(package)
    assert manifest["spec"] == "tssp/1"
    assert (manifest["tenant"], manifest["name"], manifest["version"]) == ("acme", "support", 7)
    assert manifest["adapter"]["r"] == CONFIG["r"]
    assert manifest["files"][1]["size"] == (adapter / "adapter_model.safetensors").stat().st_size
    assert manifest["privacy"] == {"kind": "none", "dataset": "tickets"}
    assert (manifest["license"], manifest["supersedes"]) == ("Apache-2.0", "d" * 64)


def test_a_statement_about_privacy_is_carried_as_its_events(world: World, adapter: Path) -> None:
    payload = envelope_payload(parse(world.pack(adapter, privacy=DP))[0].envelope, MANIFEST_TYPE)
    assert parse_manifest(payload).privacy == DP
    event = json.loads(payload)["privacy"]["events"][0]
    assert (event["type"], event["event"]["type"]) == (
        "SelfComposedDpEvent",
        "PoissonSampledDpEvent",
    )


def test_two_packages_of_one_adapter_have_nothing_secret_in_common(
    world: World, adapter: Path
) -> None:
    (_, one), (_, two) = parse(world.pack(adapter)), parse(world.pack(adapter))
    assert len(one) == len(two)
    assert not [at for at in range(0, len(one) - 16, 16) if one[at : at + 16] == two[at : at + 16]]


def test_the_package_begins_where_the_file_stands(world: World, adapter: Path) -> None:
    out = io.BytesIO(b"before")
    out.seek(6)
    world.pack(adapter, out=out)
    assert out.getvalue()[:10] == b"beforeTSSP"
    assert out.tell() == len(out.getvalue())


def test_progress_is_told_to_the_end(world: World, adapter: Path) -> None:
    told: list[tuple[int, int]] = []
    world.pack(adapter, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == sum(path.stat().st_size for path in adapter.iterdir())


def test_the_model_card_that_peft_writes_is_left_out(world: World, adapter: Path) -> None:
    (adapter / "README.md").write_text("a model card")
    assert b"README" not in world.pack(adapter)


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "training_args.bin", "optimizer.pt", "run.py", ".hidden"]
)
def test_any_other_file_is_refused_by_name(world: World, adapter: Path, name: str) -> None:
    (adapter / name).write_bytes(b"\x80\x04.")
    with pytest.raises(errors.AdapterFolderError, match=name):
        world.pack(adapter)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(world: World, adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    with pytest.raises(errors.AdapterFolderError, match=f"has no {name}"):
        world.pack(adapter)


def test_a_folder_that_is_not_there_is_an_error_of_the_folder(world: World, tmp_path: Path) -> None:
    with pytest.raises(errors.AdapterFolderError, match="cannot read"):
        world.pack(tmp_path / "nowhere")


def test_a_directory_in_place_of_a_file_is_refused(world: World, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.safetensors").mkdir()
    with pytest.raises(errors.AdapterFolderError, match="cannot read"):
        world.pack(adapter)


def test_an_adapter_that_would_not_be_admitted_is_not_packed(
    world: World, adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(errors.AdapterConfigError, match="use_dora"):
        world.pack(adapter_folder(tmp_path / "dora", config=CONFIG | {"use_dora": True}))
    tensors = safetensors(lora_tensors(rank=8))
    with pytest.raises(errors.TensorFileError, match="rank"):
        world.pack(adapter_folder(tmp_path / "rank", tensors=tensors))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Not A Name"},
        {"tenant": "../x"},
        {"version": 0},
        {"description": "x" * 5000},
        {"supersedes": "latest"},
    ],
)
def test_a_manifest_that_no_reader_accepts_is_not_written(
    world: World, adapter: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidManifestError):
        world.pack(adapter, **change)


@pytest.mark.parametrize("number", [0, 17])
def test_a_package_has_one_to_sixteen_recipients(world: World, adapter: Path, number: int) -> None:
    key = world.keys.ingest_public_key("acme")
    with pytest.raises(errors.AdapterFolderError, match="1 to 16"):
        world.pack(adapter, recipients=[key] * number)
    world.pack(adapter, recipients=[key] * 16)


@pytest.mark.parametrize("change", [b"", b"longer than before" * 1000])
def test_a_file_that_changes_while_it_is_packed_gives_no_package(
    world: World, adapter: Path, change: bytes
) -> None:
    out = io.BytesIO()
    tensors = adapter / "adapter_model.safetensors"

    def rewrite(done: int, total: int) -> None:
        tensors.write_bytes(change)

    with pytest.raises(errors.AdapterFolderError, match="while it was being packed"):
        world.pack(adapter, out=out, on_progress=rewrite)
    assert not out.getvalue().startswith(b"TSSP")
