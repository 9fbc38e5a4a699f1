"""What every object store must do; each backend's test inherits this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from adapter_store.errors import ConflictError, ObjectNotFoundError, StorageError, TooLargeError
from adapter_store.objects.store import ObjectStore

LIMIT = 1 << 30


async def chunks(*sizes: int, fail: Exception | None = None) -> AsyncIterator[bytes]:
    for number, size in enumerate(sizes):
        yield bytes([number]) * size
    if fail is not None:
        raise fail


class ObjectStoreContract:
    """Subclasses define the fixture `objects`, an empty store."""

    pytestmark = pytest.mark.anyio

    async def paths(self, objects: ObjectStore, prefix: str = "") -> list[str]:
        return sorted([item.path async for item in objects.list(prefix)])

    async def test_what_was_created_is_read(self, objects: ObjectStore) -> None:
        await objects.create("a/b", b"hello")
        assert await objects.read("a/b", max_bytes=LIMIT) == b"hello"
        assert objects.read_sync("a/b", max_bytes=LIMIT) == b"hello"
        assert bytes(objects.read_range_sync("a/b", 1, 3)) == b"el"

    async def test_an_object_is_created_once(self, objects: ObjectStore) -> None:
        await objects.create("a", b"first")
        with pytest.raises(ConflictError):
            await objects.create("a", b"second")
        with pytest.raises(ConflictError):
            objects.create_sync("a", b"second")
        assert await objects.read("a", max_bytes=LIMIT) == b"first"

    async def test_of_many_creators_one_wins(self, objects: ObjectStore) -> None:
        results = await asyncio.gather(
            *(objects.create("a", str(number).encode()) for number in range(24)),
            return_exceptions=True,
        )
        assert sum(result is None for result in results) == 1
        assert sum(isinstance(result, ConflictError) for result in results) == 23

    async def test_replacing_is_allowed_where_it_is_meant(self, objects: ObjectStore) -> None:
        await objects.replace("a", b"first")
        await objects.replace("a", b"second")
        objects.replace_sync("a", b"third")
        assert await objects.read("a", max_bytes=LIMIT) == b"third"

    async def test_what_is_not_there_is_not_found(self, objects: ObjectStore) -> None:
        with pytest.raises(ObjectNotFoundError):
            await objects.read("a", max_bytes=LIMIT)
        with pytest.raises(ObjectNotFoundError):
            objects.read_sync("a", max_bytes=LIMIT)
        with pytest.raises(ObjectNotFoundError):
            await objects.info("a")
        with pytest.raises(ObjectNotFoundError):
            objects.info_sync("a")
        with pytest.raises(ObjectNotFoundError):
            objects.read_range_sync("a", 0, 1)
        with pytest.raises(ObjectNotFoundError):
            await objects.move_new("a", "b")

    async def test_deleting_twice_is_as_good_as_once(self, objects: ObjectStore) -> None:
        await objects.create("a", b"")
        await objects.delete("a")
        await objects.delete("a")
        objects.delete_sync("a")
        assert await self.paths(objects) == []

    async def test_an_object_over_the_limit_is_not_read(self, objects: ObjectStore) -> None:
        await objects.create("a", b"12345")
        with pytest.raises(TooLargeError):
            await objects.read("a", max_bytes=4)
        with pytest.raises(TooLargeError):
            objects.read_sync("a", max_bytes=4)

    async def test_info_and_list_tell_size_and_age(self, objects: ObjectStore) -> None:
        await objects.create("a/b", b"12345")
        await objects.create("ab", b"")
        (listed,) = [item async for item in objects.list("a")]
        assert listed == await objects.info("a/b") == objects.info_sync("a/b")
        assert listed.size_bytes == 5
        assert abs(datetime.now(UTC) - listed.modified_at) < timedelta(minutes=1)
        assert await self.paths(objects) == ["a/b", "ab"]

    async def test_an_upload_in_pieces_becomes_one_object(self, objects: ObjectStore) -> None:
        await objects.upload("a", chunks(1, 6 << 20, 0, 6 << 20, 3))
        found = await objects.read("a", max_bytes=LIMIT)
        assert found == b"\0" + b"\1" * (6 << 20) + b"\3" * (6 << 20) + b"\4" * 3

    @pytest.mark.parametrize("kind", [RuntimeError, ValueError, ConnectionResetError])
    async def test_an_upload_whose_source_fails_raises_that_and_leaves_no_object(
        self, objects: ObjectStore, kind: type[Exception]
    ) -> None:
        with pytest.raises(kind, match="the client is gone"):
            await objects.upload("a", chunks(6 << 20, 1, fail=kind("the client is gone")))
        assert await self.paths(objects) == []

    async def test_an_upload_that_is_cancelled_leaves_no_object(self, objects: ObjectStore) -> None:
        waiting = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield b"x" * (6 << 20)
            waiting.set()
            await asyncio.Event().wait()

        upload = asyncio.create_task(objects.upload("a", endless()))
        await asyncio.wait_for(waiting.wait(), 10)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        assert await self.paths(objects) == []

    async def test_a_move_takes_a_free_name_only(self, objects: ObjectStore) -> None:
        await objects.create("staging/1", b"one")
        await objects.create("staging/2", b"two")
        await objects.move_new("staging/1", "a/b/c")
        with pytest.raises(ConflictError):
            await objects.move_new("staging/2", "a/b/c")
        assert await objects.read("a/b/c", max_bytes=LIMIT) == b"one"
        assert await self.paths(objects) == ["a/b/c", "staging/2"]

    async def test_of_many_moves_to_one_name_one_wins(self, objects: ObjectStore) -> None:
        for number in range(8):
            await objects.create(f"staging/{number}", b"")
        results = await asyncio.gather(
            *(objects.move_new(f"staging/{number}", "a") for number in range(8)),
            return_exceptions=True,
        )
        assert sum(result is None for result in results) == 1
        assert sum(isinstance(result, ConflictError) for result in results) == 7

    async def test_the_sweep_takes_what_is_old_in_staging_only(self, objects: ObjectStore) -> None:
        await objects.create("staging/1", b"")
        await objects.create("tenants/acme", b"")
        past, future = (datetime.now(UTC) + timedelta(hours=hours) for hours in (-1, 1))
        assert await objects.sweep_staging(before=past) == 0
        assert await objects.sweep_staging(before=future) == 1
        assert await self.paths(objects) == ["tenants/acme"]

    @pytest.mark.parametrize("path", ["../outside", "a/../../b", "a//b", "a\0b"])
    async def test_a_name_that_leads_elsewhere_is_refused(
        self, objects: ObjectStore, path: str
    ) -> None:
        with pytest.raises(StorageError):
            await objects.create(path, b"")
        with pytest.raises(StorageError):
            objects.read_sync(path, max_bytes=LIMIT)
