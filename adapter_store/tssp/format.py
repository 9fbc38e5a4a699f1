"""The numbers of TSSP v1: magic, algorithm names, and every limit with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAGIC: Final = b"TSSP\x01\x0d\x0a\x1a"
"""Name, format version 1, then CR LF and ^Z as in PNG (ISO 15948, 5.2): these show a transfer
that rewrote line ends, and stop a terminal that prints the file."""
MAGIC_NAME: Final = MAGIC[:4]

SPEC: Final = "tssp/1"
MANIFEST_TYPE: Final = "application/vnd.tensafe.tssp.manifest+json"
ACTIVATION_TYPE: Final = "application/vnd.tensafe.activation+json"
PACKAGE_MEDIA_TYPE: Final = "application/vnd.tensafe.tssp"

LENGTH_BYTES: Final = 4
"""Each section but the payload is preceded by its length, a little-endian unsigned integer."""
MAX_ENVELOPE_BYTES: Final = 1 << 20
"""A manifest with two signatures takes about 8 KiB; the rest is room for privacy events."""
MAX_RECIPIENTS_BYTES: Final = 64 << 10
"""A recipient takes about 1.7 KiB in base64, so this is room for more than MAX_RECIPIENTS."""
MAX_RECIPIENTS: Final = 16
EMPTY_RECIPIENTS: Final = b"[]"
"""The recipients of a package in the store: the uploaded ones live, and die, beside it."""

CHUNK_BYTES: Final = 1 << 20
"""Plaintext in one chunk. Large enough that AES-GCM runs at full speed, small enough that a
reader needs little memory and finds damage early."""
TAG_BYTES: Final = 16
SEALED_CHUNK_BYTES: Final = CHUNK_BYTES + TAG_BYTES

MAX_SHARDS: Final = 64
MAX_PACKAGE_BYTES: Final = 2 << 30
"""All of a package. A rank-64 adapter of every linear module of a 70B model is 1.6 GiB in bf16."""
MAX_CONFIG_BYTES: Final = 64 << 10
"""adapter_config.json as PEFT writes it is about 1 KiB."""
MAX_RANK: Final = 512
"""vLLM's largest `max_lora_rank`."""

CONFIG_PATH: Final = "adapter_config.json"
TENSORS_PATH: Final = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reader accepts at most; a deployment may lower these, never raise them."""

    max_package_bytes: int = MAX_PACKAGE_BYTES
    max_rank: int = MAX_RANK

    def __post_init__(self) -> None:
        if not 0 < self.max_package_bytes <= MAX_PACKAGE_BYTES:
            raise ValueError(f"max_package_bytes: 1 to {MAX_PACKAGE_BYTES}")
        if not 0 < self.max_rank <= MAX_RANK:
            raise ValueError(f"max_rank: 1 to {MAX_RANK}")


def file_paths(shards: int) -> tuple[str, ...]:
    """Return the paths of a package's files, in their only order."""
    if shards == 1:
        return CONFIG_PATH, TENSORS_PATH
    return CONFIG_PATH, *(f"shard-{number}/{TENSORS_PATH}" for number in range(shards))


def number_of_chunks(size: int) -> int:
    """Return how many chunks `size` bytes of plaintext make; an empty file is one empty chunk."""
    return max(1, -(-size // CHUNK_BYTES))


def ciphertext_size(size: int) -> int:
    """Return how many bytes `size` bytes of plaintext take when encrypted."""
    return size + number_of_chunks(size) * TAG_BYTES
