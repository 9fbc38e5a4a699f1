"""Packs, ingests and loads one large adapter, and prints the memory that each step took, as JSON.

Run in a process of its own by test_bounded_memory.py: the kernel keeps only one peak per process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from adapter_store.base_model import BaseModel, BaseModelRef
from adapter_store.ingest import PackageIngest
from adapter_store.objects.store import open_object_store
from adapter_store.tssp.format import MAX_PACKAGE_BYTES
from adapter_store.tssp.privacy import NoPrivacy
from adapter_store.tssp.writer import pack
from adapter_store.types import parse_adapter_name
from tests.fakes.packages import ACME, CONFIG, World

MIB = 1 << 20
UPLOAD_PIECE_BYTES = 64 << 10  # what an HTTP server hands on at a time
RANK = 512


def main(folder: Path, size_mib: int) -> None:
    modules = size_mib // 64
    world = World(
        objects=open_object_store(f"file://{folder}/objects"),
        base_model=BaseModel(
            "ba5e" * 16, {f"layers.{number}.q_proj": (16384, 16384) for number in range(modules)}
        ),
    )
    adapter, package = folder / "adapter", folder / "package.tssp"
    _write_adapter(adapter, modules)
    # The first use of each library is not what grows with the package.
    _write_adapter(folder / "small", 0)
    asyncio.run(world.ingest(world.pack(folder / "small", base_model=_reference(world))))
    report = {}
    with _measured(report, "pack"), package.open("w+b") as out:
        pack(
            adapter,
            out,
            tenant=ACME,
            name=parse_adapter_name("large"),
            version=1,
            base_model=_reference(world),
            signer=world.publisher,
            recipients=[world.keys.ingest_public_key(ACME)],
            privacy=NoPrivacy(dataset="none"),
        )
    report["package_bytes"] = package.stat().st_size
    with _measured(report, "ingest"):
        digest = asyncio.run(_ingest(world, package))
    sys.stdout.write(json.dumps(report | {"digest": digest}))


async def _ingest(world: World, package: Path) -> str:
    ingested = await PackageIngest(world.objects).ingest(
        _upload(package),
        tenant=ACME,
        trusted=[world.publisher.public_key],
        base_fingerprint=world.base_model.fingerprint,
        max_bytes=MAX_PACKAGE_BYTES,
    )
    return ingested.digest


async def _upload(package: Path) -> AsyncIterator[bytes]:
    with package.open("rb") as file:
        while piece := file.read(UPLOAD_PIECE_BYTES):
            yield piece


def _reference(world: World) -> BaseModelRef:
    return BaseModelRef(id="large", fingerprint=world.base_model.fingerprint)


def _write_adapter(folder: Path, modules: int) -> None:
    """Two 32 MiB matrices for each module; holes, so that the disk has little to do."""
    rank, features = (RANK, 16384) if modules else (1, 8)
    folder.mkdir()
    config = CONFIG | {"r": rank, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    header, position = {}, 0
    for number in range(max(1, modules)):
        for side, shape in (("A", [rank, features]), ("B", [features, rank])):
            end = position + rank * features * 4
            header[f"base_model.model.layers.{number}.q_proj.lora_{side}.weight"] = {
                "dtype": "F32",
                "shape": shape,
                "data_offsets": [position, end],
            }
            position = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + position)


@contextmanager
def _measured(report: dict[str, float], step: str) -> Iterator[None]:
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, proc(5)
    before, started = _memory("VmRSS"), time.monotonic()
    yield
    report[f"{step}_s"] = round(time.monotonic() - started, 2)
    report[f"{step}_mib"] = round((_memory("VmHWM") - before) / MIB, 1)


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {name} in {os.uname().sysname}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
