"""The header of a safetensors file, parsed without a tensor library and without trust.

The format's own reader accepts what we refuse: repeated names, names that are paths, zero
bytes, any number of tensors, NaN. See https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from adapter_store import foreign_json
from adapter_store.errors import TensorFileError, shown
from adapter_store.peft.config import AdapterConfig

LENGTH_BYTES: Final = 8
MAX_TENSORS: Final = 16_384
"""Two for each of 8,192 modules; Llama 3.1 405B has 126 layers of 7."""
MAX_HEADER_BYTES: Final = 4 << 20
"""256 bytes for each of MAX_TENSORS; an entry takes about 160."""
_MAX_DIMENSION: Final = 2**31
_WINDOW_BYTES: Final = 4 << 20

_NAME: Final = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)\.lora_(?P<side>[AB])\.weight"
)
_MAX_NAME: Final = 256
_FORMAT_METADATA: Final = "__metadata__"

# A number is NaN or infinite when all bits of its exponent are set: one mask and compare, and the
# same for bfloat16, which numpy does not know.
_EXPONENT: Final[Mapping[str, tuple[np.dtype[np.unsignedinteger[Any]], int]]] = {
    "F32": (np.dtype("<u4"), 0x7F800000),
    "F16": (np.dtype("<u2"), 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7F80),
}

Read = Callable[[int, int], memoryview]
"""Returns the bytes of a file from a start to an end."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: its name, type and shape, and where its bytes are in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """What was found in an adapter that passed every check."""

    modules: int
    max_rank: int
    parameters: int
    dtypes: tuple[str, ...]
    size_bytes: int


def parse_header(read: Read, file_size: int) -> list[TensorInfo]:
    """Return the tensors of a safetensors file, in the order of their bytes.

    Raises TensorFileError unless the header is small, unambiguous JSON that names at most
    MAX_TENSORS LoRA matrices of a float type, which fill the file without gap or overlap.
    """
    end = header_end(read(0, min(LENGTH_BYTES, file_size)), file_size, limit=MAX_HEADER_BYTES)
    members = foreign_json.parse_object(
        bytes(read(LENGTH_BYTES, end)), what="safetensors header", error=TensorFileError
    )
    _check_metadata(members.pop(_FORMAT_METADATA, {}))
    if not 1 <= len(members) <= MAX_TENSORS:
        raise TensorFileError(
            "safetensors header", expected=f"1 to {MAX_TENSORS} tensors", found=len(members)
        )
    tensors = [_tensor(name, entry, end) for name, entry in members.items()]
    tensors.sort(key=lambda tensor: tensor.start)
    _check_contiguous(tensors, end, file_size)
    return tensors


def header_end(length: memoryview | bytes, file_size: int, *, limit: int) -> int:
    """Return where the header ends, from the file's first 8 bytes; raises TensorFileError."""
    if len(length) < LENGTH_BYTES:
        raise TensorFileError("safetensors file", expected="8 bytes and more", found=file_size)
    size = int.from_bytes(length, "little")
    if not 2 <= size <= min(limit, file_size - LENGTH_BYTES):
        raise TensorFileError(
            "safetensors header",
            expected=f"2 to {min(limit, file_size - LENGTH_BYTES)} bytes",
            found=size,
        )
    return LENGTH_BYTES + size


def check_adapter(
    config: AdapterConfig,
    tensors: Sequence[TensorInfo],
    read: Read,
    base_shapes: Mapping[str, tuple[int, int]] | None,
) -> AdapterReport:
    """Check that the tensors are the LoRA that `config` describes, and finite.

    `base_shapes` has the (out, in) features of every linear module of the base model; None
    leaves that check to whoever has the model. Raises TensorFileError.
    """
    pairs = _pair_up(tensors)
    for module, (a, b) in pairs.items():
        _check_module(config, module, a, b)
        if base_shapes is not None:
            _check_base(module, a, b, base_shapes)
    check_finite(tensors, read)
    return AdapterReport(
        modules=len(pairs),
        max_rank=max(a.shape[0] for a, _ in pairs.values()),
        parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        dtypes=tuple(sorted({tensor.dtype for tensor in tensors})),
        size_bytes=max(tensor.end for tensor in tensors),
    )


def check_finite(tensors: Sequence[TensorInfo], read: Read) -> None:
    """Raise TensorFileError if any element is NaN or infinite; needs a few MiB at a time."""
    for tensor in tensors:
        dtype, mask = _EXPONENT[tensor.dtype]
        for start, end in _windows(tensor):
            bits = np.frombuffer(read(start, end), dtype=dtype)
            if np.any((bits & mask) == mask):
                raise TensorFileError(
                    f"tensor {tensor.name}", expected="finite numbers", found="NaN or infinity"
                )


def reader_of(buffer: bytes | bytearray | memoryview) -> Read:
    """Return a reader of a file that is in memory."""
    view = memoryview(buffer)
    return lambda start, end: view[start:end]


def _windows(tensor: TensorInfo) -> Iterator[tuple[int, int]]:
    for start in range(tensor.start, tensor.end, _WINDOW_BYTES):
        yield start, min(start + _WINDOW_BYTES, tensor.end)


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise TensorFileError("safetensors __metadata__", expected="an object of strings")


def _tensor(name: str, entry: Any, data_start: int) -> TensorInfo:
    if len(name) > _MAX_NAME or _NAME.fullmatch(name) is None:
        raise TensorFileError(
            "tensor name",
            expected="base_model.model.<module>.lora_A.weight or …lora_B.weight",
            found=shown(name),
        )
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"tensor {name}", expected="dtype, shape and data_offsets")
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in _EXPONENT:
        raise TensorFileError(
            f"dtype of tensor {name}", expected=" or ".join(_EXPONENT), found=shown(dtype)
        )
    shape = _two_naturals(entry["shape"], f"shape of tensor {name}")
    start, end = _two_naturals(entry["data_offsets"], f"data_offsets of tensor {name}")
    size = math.prod(shape) * _EXPONENT[dtype][0].itemsize
    if size == 0 or end - start != size:
        raise TensorFileError(
            f"data_offsets of tensor {name}",
            expected=f"the {size} bytes of {dtype} {shape}"
            if size
            else "a tensor that is not empty",
            found=end - start,
        )
    return TensorInfo(name, dtype, shape, data_start + start, data_start + end)


def _two_naturals(value: Any, what: str) -> tuple[int, int]:
    if (
        not isinstance(value, list)
        or len(value) != 2
        # bool is an int to Python, and 1.0 would be one to == but not to an offset.
        or not all(type(number) is int and 0 <= number <= _MAX_DIMENSION for number in value)
    ):
        raise TensorFileError(what, expected="two whole numbers", found=shown(value))
    return value[0], value[1]


def _check_contiguous(tensors: Sequence[TensorInfo], data_start: int, file_size: int) -> None:
    position = data_start
    for tensor in tensors:
        if tensor.start != position:
            raise TensorFileError(
                f"data of tensor {tensor.name}",
                expected=f"to begin at {position}, where the one before it ends",
                found=tensor.start,
            )
        position = tensor.end
    if position != file_size:
        raise TensorFileError(
            "safetensors file", expected=f"{position} bytes by its header", found=file_size
        )


def _pair_up(tensors: Sequence[TensorInfo]) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    sides: dict[str, dict[str, TensorInfo]] = {"A": {}, "B": {}}
    for tensor in tensors:
        match = _NAME.fullmatch(tensor.name)
        assert match is not None  # noqa: S101  parse_header made it
        sides[match["side"]][match["module"]] = tensor
    unpaired = sides["A"].keys() ^ sides["B"].keys()
    if unpaired:
        raise TensorFileError(f"module {min(unpaired)}", expected="lora_A and lora_B", found="one")
    return {module: (a, sides["B"][module]) for module, a in sides["A"].items()}


def _check_module(config: AdapterConfig, module: str, a: TensorInfo, b: TensorInfo) -> None:
    if not config.targets(module):
        raise TensorFileError(
            f"module {module}", expected="one that target_modules names", found="another"
        )
    rank = config.rank_of(module)
    if a.shape[0] != rank or b.shape[1] != rank:
        raise TensorFileError(
            f"module {module}",
            expected=f"rank {rank} by adapter_config.json",
            found=f"lora_A {a.shape}, lora_B {b.shape}",
        )


def _check_base(
    module: str, a: TensorInfo, b: TensorInfo, base_shapes: Mapping[str, tuple[int, int]]
) -> None:
    shape = base_shapes.get(module)
    if shape is None:
        raise TensorFileError(
            f"module {module}", expected="a linear module of the base model", found="none"
        )
    if (b.shape[0], a.shape[1]) != shape:
        raise TensorFileError(
            f"module {module}",
            expected=f"(out, in) features {shape} of the base model",
            found=(b.shape[0], a.shape[1]),
        )
