"""A deployment in memory and an adapter to put into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_store.tssp.signing import PublisherPrivateKey
from tests.fakes.forgery import Forger
from tests.fakes.packages import World, adapter_folder


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return adapter_folder(tmp_path / "adapter")


@pytest.fixture
def forger(world: World, adapter: Path, tmp_path: Path) -> Forger:
    return Forger(
        package=world.pack(adapter),
        other=world.pack(adapter_folder(tmp_path / "other", seed=1)),
        publisher=world.publisher,
        stranger=PublisherPrivateKey.generate(),
    )
