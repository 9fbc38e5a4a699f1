"""Which model an adapter belongs to: a fingerprint of the base model's config and tensor shapes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import rfc8785
from msgspec import Meta, Struct

from adapter_store import foreign_json
from adapter_store.errors import InvalidBaseModelError, TensorFileError, shown
from adapter_store.peft.safetensors import LENGTH_BYTES, header_end

MAX_CONFIG_BYTES: Final = 1 << 20
MAX_INDEX_BYTES: Final = 64 << 20
MAX_TENSOR_HEADER_BYTES: Final = 100 << 20
"""The limit of the safetensors library itself."""
_CONFIG: Final = "config.json"
_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"

# Where a model was copied from, and which library wrote it, does not make it another model.
_INCIDENTAL: Final = frozenset({"_name_or_path", "transformers_version"})


class BaseModelRef(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The base model that an adapter was trained for: a name for people, a fingerprint to check."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    fingerprint: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


@dataclass(frozen=True, slots=True)
class BaseModel:
    """What an adapter can be checked against: a fingerprint, and (out, in) of every matrix."""

    fingerprint: str
    shapes: Mapping[str, tuple[int, int]]


def fingerprint(model_dir: Path) -> str:
    """Return the fingerprint of the model in a folder; raises InvalidBaseModelError.

    SHA-256 over the model's config and the names, types and shapes of its tensors, in
    hexadecimal. It is of the architecture: two fine-tunes of one model share it.
    """
    return read_base_model(model_dir).fingerprint


def read_base_model(model_dir: Path) -> BaseModel:
    """Return what adapters are checked against; reads the headers of the weights, not the weights.

    Raises InvalidBaseModelError if the folder is not a Hugging Face model in safetensors.
    """
    config = _read_json(model_dir / _CONFIG, MAX_CONFIG_BYTES)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in _weight_files(model_dir):
        tensors |= _read_tensors(model_dir / name)
    described: dict[str, Any] = {
        "config": {name: value for name, value in config.items() if name not in _INCIDENTAL},
        "tensors": [[name, dtype, list(shape)] for name, (dtype, shape) in sorted(tensors.items())],
    }
    try:
        digest = hashlib.sha256(rfc8785.dumps(described)).hexdigest()
    except rfc8785.CanonicalizationError as invalid:
        raise InvalidBaseModelError(f"{model_dir / _CONFIG}: {invalid}") from None
    shapes = {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, (_, shape) in tensors.items()
        if name.endswith(".weight") and len(shape) == 2
    }
    return BaseModel(fingerprint=digest, shapes=shapes)


def _weight_files(model_dir: Path) -> list[str]:
    if not (model_dir / _INDEX).exists():
        return [_SINGLE]
    weight_map = _read_json(model_dir / _INDEX, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InvalidBaseModelError(f"{model_dir / _INDEX}", expected="a weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise InvalidBaseModelError(
                f"{model_dir / _INDEX}", expected="names of files beside it", found=shown(name)
            )
    return names


def _read_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    try:
        with path.open("rb") as file:
            length = file.read(LENGTH_BYTES)
            end = header_end(length, path.stat().st_size, limit=MAX_TENSOR_HEADER_BYTES)
            header = file.read(end - LENGTH_BYTES)
    except OSError as error:
        raise InvalidBaseModelError(f"cannot read {path}: {error.strerror}") from None
    except TensorFileError as invalid:
        raise InvalidBaseModelError(f"{path}: {invalid}") from None
    members = foreign_json.parse_object(header, what=str(path), error=InvalidBaseModelError)
    members.pop("__metadata__", None)
    try:
        return {name: (str(e["dtype"]), tuple(map(int, e["shape"]))) for name, e in members.items()}
    except (KeyError, TypeError, ValueError):
        raise InvalidBaseModelError(f"{path}: a tensor lacks its dtype or shape") from None


def _read_json(path: Path, limit: int) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InvalidBaseModelError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > limit:
        raise InvalidBaseModelError(f"{path}", expected=f"at most {limit} bytes")
    return foreign_json.parse_object(data, what=str(path), error=InvalidBaseModelError)
