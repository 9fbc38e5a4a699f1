"""A safetensors header from a stranger: read when it is a plain LoRA, refused when it is not."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from adapter_store.errors import TensorFileError
from adapter_store.peft.config import AdapterConfig, parse_adapter_config
from adapter_store.peft.safetensors import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    TensorInfo,
    check_adapter,
    parse_header,
    reader_of,
)
from tests.fakes.packages import (
    BASE_MODEL,
    CONFIG,
    MODULES,
    lora_tensors,
    safetensors,
    safetensors_file,
)

NAME = "base_model.model.q_proj.lora_A.weight"
ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def parse(file: bytes) -> list[TensorInfo]:
    return parse_header(reader_of(file), len(file))


def file_of(header: Mapping[str, Any] | bytes, size: int = 16) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return safetensors_file(encoded, bytes(size))


def check(file: bytes, shapes: Any = BASE_MODEL.shapes, **config: Any) -> Any:
    return check_adapter(adapter_config(**config), parse(file), reader_of(file), shapes)


def adapter_config(**changes: Any) -> AdapterConfig:
    return parse_adapter_config(json.dumps(CONFIG | changes).encode())


def test_a_plain_lora_is_read() -> None:
    tensors = parse(safetensors(lora_tensors()))
    assert len(tensors) == 2 * len(MODULES)
    assert tensors[0].name == f"base_model.model.{MODULES[0]}.lora_A.weight"
    assert (tensors[0].dtype, tensors[0].shape) == ("F32", (4, 16))
    assert [tensor.start for tensor in tensors[1:]] == [tensor.end for tensor in tensors[:-1]]


def test_it_agrees_with_the_library_of_the_format() -> None:
    library = pytest.importorskip("safetensors.numpy")
    file = library.save(lora_tensors(), metadata={"format": "pt"})
    ours = {tensor.name: file[tensor.start : tensor.end] for tensor in parse(file)}
    assert ours == {name: array.tobytes() for name, array in library.load(file).items()}


HOSTILE_HEADERS: Mapping[str, tuple[bytes, str]] = {
    "an empty file": (b"", "8 bytes and more"),
    "a length cut short": (b"\x08\0\0", "8 bytes and more"),
    "a length beyond the file": (struct.pack("<Q", 2**63) + b"{}", "header: expected"),
    "a length over the limit": (
        struct.pack("<Q", MAX_HEADER_BYTES + 1) + bytes(MAX_HEADER_BYTES + 2),
        "header: expected",
    ),
    "a length of zero": (bytes(64), "header: expected"),
    "a pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.", "header: expected"),
    "a zip file, as torch.save writes": (b"PK\x03\x04" + bytes(60), "header: expected"),
    "bytes that are no JSON": (file_of(b"\x80\x04."), "not JSON"),
    "bytes that are no UTF-8": (file_of(b'{"\xff":1}'), "not JSON"),
    "a list": (file_of(b"[1]"), "a JSON object, found list"),
    "no tensor": (file_of({}), "1 to 16384 tensors, found 0"),
    "only metadata": (file_of({"__metadata__": {"format": "pt"}}), "found 0"),
    "metadata that is no text": (file_of({"__metadata__": {"a": 1}, NAME: ENTRY}), "strings"),
    "a repeated name": (
        file_of(f'{{"{NAME}":{json.dumps(ENTRY)},"{NAME}":{json.dumps(ENTRY)}}}'.encode()),
        "repeats the member",
    ),
    "a repeated member in an entry": (
        file_of(f'{{"{NAME}":{{"dtype":"F32","dtype":"F16"}}}}'.encode()),
        "repeats the member 'dtype'",
    ),
    "NaN": (file_of(f'{{"{NAME}":NaN}}'.encode()), "NaN, which is not JSON"),
    "infinity": (file_of(f'{{"{NAME}":-Infinity}}'.encode()), "-Infinity"),
    "a number of 5,000 digits": (file_of(b'{"a":' + b"9" * 5000 + b"}"), "not JSON"),
    "JSON of bottomless depth": (file_of(b'{"a":' + b"[" * 200_000), "not JSON"),
    "an entry that is a list": (file_of({NAME: [1]}), "dtype, shape and data_offsets"),
    "an entry with too little": (file_of({NAME: {"dtype": "F32"}}), "dtype, shape"),
    "an entry with too much": (file_of({NAME: ENTRY | {"run": "me"}}), "dtype, shape"),
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_a_hostile_header_is_refused(name: str) -> None:
    file, message = HOSTILE_HEADERS[name]
    with pytest.raises(TensorFileError, match=message):
        parse(file)


def test_the_entry_that_the_hostile_ones_are_made_from_is_accepted() -> None:
    assert len(parse(file_of({NAME: ENTRY}))) == 1


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "base_model.model...lora_A.weight",
        "base_model.model.a/b.lora_A.weight",
        "base_model.model.q_proj\0.lora_A.weight",
        "base_model.model.q_proj.lora_A.weight\n",
        " base_model.model.q_proj.lora_A.weight",
        "base_model.model.q_proj.lora_C.weight",
        "base_model.model.q_proj.lora_A.bias",
        "base_model.model.lm_head.weight",
        "model.layers.0.q_proj.lora_A.weight",
        f"base_model.model.{'a' * 300}.lora_A.weight",
        "base_model.model.çà.lora_A.weight",
        "",
    ],
)
def test_a_tensor_that_is_no_lora_matrix_is_refused(name: str) -> None:
    with pytest.raises(TensorFileError, match="tensor name: expected") as caught:
        parse(file_of({name: ENTRY}))
    assert str(caught.value).isascii() or "…" in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "F64"}, "dtype"),
        ({"dtype": "I64"}, "dtype"),
        ({"dtype": "f32"}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"dtype": ["F32"]}, "dtype"),
        ({"shape": [4]}, "two whole numbers"),
        ({"shape": [2, 2, 1]}, "two whole numbers"),
        ({"shape": [-2, -2]}, "two whole numbers"),
        ({"shape": [2.0, 2.0]}, "two whole numbers"),
        ({"shape": [True, 4]}, "two whole numbers"),
        ({"shape": [2**40, 2**40]}, "two whole numbers"),
        ({"shape": "22"}, "two whole numbers"),
        ({"shape": [0, 4], "data_offsets": [0, 0]}, "not empty"),
        ({"shape": [2, 3]}, "24 bytes"),
        ({"shape": [2**31, 2**31]}, "bytes of F32"),
        ({"data_offsets": [0, 15]}, "16 bytes"),
        ({"data_offsets": [16, 0]}, "16 bytes"),
        ({"data_offsets": [4, 20]}, "to begin at"),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TensorFileError, match=message):
        parse(file_of({NAME: ENTRY | change}))


def two(second: list[int]) -> dict[str, Any]:
    return {NAME: ENTRY, NAME.replace("_A", "_B"): ENTRY | {"data_offsets": second}}


def test_tensors_that_lie_side_by_side_are_accepted() -> None:
    assert len(parse(file_of(two([16, 32]), 32))) == 2


@pytest.mark.parametrize("second", [[0, 16], [8, 24], [20, 36]])
def test_tensors_that_overlap_or_leave_a_gap_are_refused(second: list[int]) -> None:
    with pytest.raises(TensorFileError, match="to begin at"):
        parse(file_of(two(second), 40))


@pytest.mark.parametrize("size", [0, 15, 17, 1 << 20])
def test_a_file_that_is_longer_or_shorter_than_its_tensors_is_refused(size: int) -> None:
    with pytest.raises(TensorFileError, match="bytes by its header"):
        parse(file_of({NAME: ENTRY}, size))


def many_tensors(number: int) -> bytes:
    header = {
        f"base_model.model.m{index}.lora_A.weight": {
            "dtype": "F16",
            "shape": [1, 1],
            "data_offsets": [2 * index, 2 * index + 2],
        }
        for index in range(number)
    }
    return file_of(json.dumps(header, separators=(",", ":")).encode(), 2 * number)


def test_as_many_tensors_as_allowed_are_read_and_one_more_is_not() -> None:
    assert len(parse(many_tensors(MAX_TENSORS))) == MAX_TENSORS
    with pytest.raises(TensorFileError, match="found 16385"):
        parse(many_tensors(MAX_TENSORS + 1))


def test_a_hundred_thousand_tensors_are_refused_before_they_are_parsed() -> None:
    file = many_tensors(100_000)
    with pytest.raises(TensorFileError, match="safetensors header: expected"):
        parse(file)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, -1])
def test_a_number_that_is_not_finite_is_refused(value: float, position: int) -> None:
    tensors = lora_tensors()
    list(tensors.values())[position][position, position] = value
    with pytest.raises(TensorFileError, match="finite numbers, found NaN or infinity"):
        check(safetensors(tensors))


def test_the_largest_finite_numbers_are_accepted() -> None:
    tensors = lora_tensors()
    next(iter(tensors.values()))[0] = np.finfo(np.float32).max
    check(safetensors(tensors))


def as_float16(tensor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return tensor.astype(np.float16)


def as_bfloat16(tensor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (tensor.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize(("dtype", "convert"), [("F16", as_float16), ("BF16", as_bfloat16)])
def test_half_precision_is_checked_alike(
    dtype: str, convert: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
) -> None:
    tensors = lora_tensors()
    good = {name: convert(tensor) for name, tensor in tensors.items()}
    assert check(safetensors(good, dtype=dtype)).dtypes == (dtype,)
    next(iter(tensors.values()))[1, 1] = np.inf
    bad = {name: convert(tensor) for name, tensor in tensors.items()}
    with pytest.raises(TensorFileError, match="finite"):
        check(safetensors(bad, dtype=dtype))


def test_a_matrix_without_its_partner_is_refused() -> None:
    tensors = lora_tensors()
    del tensors[f"base_model.model.{MODULES[0]}.lora_B.weight"]
    with pytest.raises(TensorFileError, match="lora_A and lora_B"):
        check(safetensors(tensors))


def test_another_rank_than_the_config_says_is_refused() -> None:
    with pytest.raises(TensorFileError, match=r"rank 4 by adapter_config\.json"):
        check(safetensors(lora_tensors(rank=8)))


def test_the_rank_of_a_pattern_is_expected_where_it_applies() -> None:
    tensors = {
        name: tensor
        for rank, projection in ((4, "q_proj"), (8, "v_proj"))
        for name, tensor in lora_tensors(rank=rank).items()
        if projection in name
    }
    report = check(safetensors(tensors), rank_pattern={"v_proj": 8})
    assert report.max_rank == 8
    with pytest.raises(TensorFileError, match="rank"):
        check(safetensors(tensors), rank_pattern={"q_proj": 8})


def test_a_module_that_the_config_does_not_name_is_refused() -> None:
    with pytest.raises(TensorFileError, match="target_modules"):
        check(safetensors(lora_tensors()), target_modules=["q_proj"])


def test_without_a_base_model_at_hand_its_shapes_are_not_checked() -> None:
    check(safetensors(lora_tensors(modules=["elsewhere.q_proj"])), shapes=None)
    with pytest.raises(TensorFileError, match="a linear module of the base model"):
        check(safetensors(lora_tensors(modules=["elsewhere.q_proj"])))
