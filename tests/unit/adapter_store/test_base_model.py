"""A base model's fingerprint: of its architecture, whatever it is called and wherever it lies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_store.base_model import fingerprint, read_base_model
from adapter_store.errors import InvalidBaseModelError
from tests.fakes.packages import safetensors_file

CONFIG = {"model_type": "llama", "hidden_size": 4, "rope_theta": 10000.0, "dtype": "float32"}
TENSORS = {"model.embed.weight": [8, 4], "model.q_proj.weight": [6, 4], "model.norm.weight": [4]}


def weights(tensors: dict[str, list[int]], *, dtype: str = "F32", fill: bytes = b"\0") -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in tensors.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    return safetensors_file(json.dumps(header).encode(), fill * position)


def model(folder: Path, *, config: dict[str, Any] = CONFIG, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights(**({"tensors": TENSORS} | changes)))
    return folder


def test_it_is_64_hexadecimal_digits_that_do_not_depend_on_the_weights(tmp_path: Path) -> None:
    one = fingerprint(model(tmp_path / "one"))
    two = fingerprint(model(tmp_path / "two", fill=b"\1"))
    assert one == two
    assert len(bytes.fromhex(one)) == 32


def test_it_is_the_known_one(tmp_path: Path) -> None:
    """Changing how fingerprints are made would orphan every package: this must never change."""
    expected = "39a7ea035999f2108cb7bdd00334ba191cb02679c0b94738337d8290c19150b1"
    assert fingerprint(model(tmp_path / "model")) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"config": CONFIG | {"rope_theta": 5000.0}},
        {"config": CONFIG | {"vocab_size": 8}},
        {"dtype": "BF16"},
        {"tensors": TENSORS | {"model.q_proj.weight": [4, 6]}},
        {"tensors": TENSORS | {"model.k_proj.weight": [6, 4]}},
    ],
)
def test_another_architecture_has_another_fingerprint(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    assert fingerprint(model(tmp_path / "a")) != fingerprint(model(tmp_path / "b", **change))


def test_where_it_was_copied_from_and_by_which_library_does_not_matter(tmp_path: Path) -> None:
    copied = CONFIG | {"_name_or_path": "/elsewhere", "transformers_version": "9"}
    assert fingerprint(model(tmp_path / "a")) == fingerprint(model(tmp_path / "b", config=copied))


def test_sharding_does_not_matter(tmp_path: Path) -> None:
    whole = model(tmp_path / "whole")
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    (sharded / "config.json").write_text(json.dumps(CONFIG))
    weight_map = {}
    for number, (name, shape) in enumerate(TENSORS.items()):
        weight_map[name] = f"model-{number}.safetensors"
        (sharded / weight_map[name]).write_bytes(weights({name: shape}))
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert fingerprint(sharded) == fingerprint(whole)


def test_the_shapes_of_matrices_are_known_by_module(tmp_path: Path) -> None:
    shapes = read_base_model(model(tmp_path / "model")).shapes
    assert shapes == {"model.embed": (8, 4), "model.q_proj": (6, 4)}


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def broken_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04")


def tensor_without_shape(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(safetensors_file(b'{"a":{}}', b""))


def index_that_leads_elsewhere(folder: Path) -> None:
    index = {"weight_map": {"a": "../../etc/passwd"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index_without_map(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")


def huge_config(folder: Path) -> None:
    (folder / "config.json").write_text(" " * (2 << 20))


@pytest.mark.parametrize(
    "damage",
    [
        without_config,
        without_weights,
        broken_config,
        broken_weights,
        tensor_without_shape,
        index_that_leads_elsewhere,
        index_without_map,
        huge_config,
    ],
)
def test_a_folder_that_is_no_model_is_refused(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = model(tmp_path / "model")
    damage(folder)
    with pytest.raises(InvalidBaseModelError):
        fingerprint(folder)
