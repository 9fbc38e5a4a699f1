"""From a folder on a publisher's disk to tensors in the pool's memory, and every way not to."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from adapter_store import errors
from adapter_store.objects.paths import PackagePaths
from adapter_store.types import Digest, EngineName
from tests.fakes.packages import (
    ACME,
    CONFIG,
    FEATURES,
    GLOBEX,
    World,
    adapter_folder,
    lora_tensors,
    safetensors,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return adapter_folder(tmp_path / "adapter")


async def test_what_was_packed_is_what_is_loaded(world: World, adapter: Path) -> None:
    name = await world.activated(world.pack(adapter))
    loaded = world.loader().load(name)
    assert bytes(loaded.tensors) == (adapter / "adapter_model.safetensors").read_bytes()
    assert loaded.config.r == CONFIG["r"]
    assert json.loads(loaded.config_json)["target_modules"] == CONFIG["target_modules"]


async def test_admission_reports_what_it_found(world: World, adapter: Path) -> None:
    digest = (await world.ingest(world.pack(adapter))).digest
    await world.record(digest, "admitting")
    report = world.loader().admit(ACME, digest)
    assert (report.modules, report.max_rank, report.dtypes) == (4, 4, ("F32",))
    assert report.parameters == 4 * 2 * 4 * FEATURES
