"""Every backend of the object store, held to the one contract."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapter_store.errors import StorageError, StorageUnavailableError
from adapter_store.objects.store import ObjectStore, open_object_store
from tests.contract.object_store.suite import ObjectStoreContract

KILLED_UPLOAD = """
import asyncio, os, signal, sys
from adapter_store.objects.store import open_object_store

async def chunks():
    yield b"x" * (6 << 20)
    await asyncio.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(open_object_store(sys.argv[1]).upload("staging/upload", chunks()))
"""


class TestMemory(ObjectStoreContract):
    @pytest.fixture
    def objects(self) -> ObjectStore:
        return open_object_store("memory:///")


class TestFile(ObjectStoreContract):
    @pytest.fixture
    def objects(self, tmp_path: Path) -> ObjectStore:
        return open_object_store(f"file://{tmp_path}/objects")

    def test_its_folder_is_closed_to_others(self, objects: ObjectStore, tmp_path: Path) -> None:
        assert (tmp_path / "objects").stat().st_mode & 0o777 == 0o700

    async def test_what_was_written_is_there_after_a_restart(
        self, objects: ObjectStore, tmp_path: Path
    ) -> None:
        await objects.create("a/b", b"hello")
        again = open_object_store(f"file://{tmp_path}/objects")
        assert await again.read("a/b", max_bytes=10) == b"hello"

    async def test_what_a_killed_upload_left_is_swept(
        self, objects: ObjectStore, tmp_path: Path
    ) -> None:
        url = f"file://{tmp_path}/objects"
        killed = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED_UPLOAD, url)
        assert await asyncio.wait_for(killed.wait(), 60) == -signal.SIGKILL
        (partial,) = (tmp_path / "objects/staging").iterdir()
        assert await objects.sweep_staging(before=datetime.now(UTC) - timedelta(hours=1)) == 0
        hours_ago = time.time() - 2 * 3600
        os.utime(partial, (hours_ago, hours_ago))
        assert await objects.sweep_staging(before=datetime.now(UTC) - timedelta(hours=1)) == 1
        assert not partial.exists()

    async def test_a_folder_that_is_a_file_is_an_error_of_the_store(
        self, objects: ObjectStore, tmp_path: Path
    ) -> None:
        (tmp_path / "objects/a").write_text("in the way")
        with pytest.raises(StorageUnavailableError):
            await objects.create("a/b", b"")


def test_a_folder_with_a_space_in_its_name_works(tmp_path: Path) -> None:
    open_object_store(f"file://{tmp_path}/my%20objects").create_sync("a", b"1")
    assert (tmp_path / "my objects/a").read_bytes() == b"1"


def test_a_folder_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir(mode=0o755)
    with pytest.raises(StorageError, match=r"run: chmod 0700 /"):
        open_object_store(f"file://{tmp_path}/objects")


@pytest.mark.parametrize(
    "url", ["", "/tmp/x", "file://relative/x", "ftp:///x", "s3://bucket", "file:///x?y=1"]
)
def test_a_url_that_is_not_supported_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="expected file:///folder or memory:///"):
        open_object_store(url)
