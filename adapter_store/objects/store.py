"""Objects by URL, over obstore: created once or replaced whole, never seen half-written."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import LocalStore, MemoryStore
from obstore.store import ObjectStore as Backend

from adapter_store.errors import (
    ConflictError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
    TooLargeError,
    shown,
)
from adapter_store.objects import paths

_PART_BYTES: Final = 5 << 20  # S3's smallest part
_PARTS_IN_FLIGHT: Final = 2  # with the part being filled, 15 MiB for each upload


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing says of an object."""

    path: str
    size_bytes: int
    modified_at: datetime


class ObjectStore:
    """One object store; every method raises StorageError or one of its kinds, nothing else.

    Writes are atomic: a reader sees an object whole, or not at all. Methods that end in `_sync`
    are for threads of the pool; all are safe to call at the same time.
    """

    def __init__(self, backend: Backend, *, folder: Path | None = None) -> None:
        self._backend = backend
        self._folder = folder

    async def create(self, path: str, data: bytes) -> None:
        """Write a new object; raises ConflictError if there is one already."""
        with _translated(path):
            await obstore.put_async(self._backend, path, data, mode="create")

    def create_sync(self, path: str, data: bytes) -> None:
        """Write a new object; raises ConflictError if there is one already."""
        with _translated(path):
            obstore.put(self._backend, path, data, mode="create")

    async def replace(self, path: str, data: bytes) -> None:
        """Write an object, over the one that may be there."""
        with _translated(path):
            await obstore.put_async(self._backend, path, data)

    def replace_sync(self, path: str, data: bytes) -> None:
        """Write an object, over the one that may be there."""
        with _translated(path):
            obstore.put(self._backend, path, data)

    async def upload(self, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Write an object as its bytes come, in bounded memory.

        If `chunks` raises, or the task is cancelled, the exception passes and no object appears.
        """
        try:
            with _translated(path):
                await obstore.put_async(
                    self._backend,
                    path,
                    _marked(chunks),
                    use_multipart=True,
                    chunk_size=_PART_BYTES,
                    max_concurrency=_PARTS_IN_FLIGHT,
                )
        except _SourceError as failed:
            raise failed.reason from None

    async def move_new(self, source: str, target: str) -> None:
        """Rename an object; raises ConflictError if `target` is there already."""
        with _translated(target):
            await obstore.rename_async(self._backend, source, target, overwrite=False)

    async def read(self, path: str, *, max_bytes: int) -> bytes:
        """Return an object; raises TooLargeError before reading one of over `max_bytes`."""
        with _translated(path):
            found = await obstore.get_async(self._backend, path)
            _check_size(path, found.meta["size"], max_bytes)
            return bytes(await found.bytes_async())

    def read_sync(self, path: str, *, max_bytes: int) -> bytes:
        """Return an object; raises TooLargeError before reading one of over `max_bytes`."""
        with _translated(path):
            found = obstore.get(self._backend, path)
            _check_size(path, found.meta["size"], max_bytes)
            return bytes(found.bytes())

    def read_range_sync(self, path: str, start: int, end: int) -> memoryview:
        """Return the bytes of an object from `start` to `end`, which must be within it."""
        with _translated(path):
            return memoryview(obstore.get_range(self._backend, path, start=start, end=end))

    async def info(self, path: str) -> ObjectInfo:
        """Return what a listing would say of an object."""
        with _translated(path):
            found = await obstore.head_async(self._backend, path)
        return ObjectInfo(found["path"], found["size"], found["last_modified"])

    def info_sync(self, path: str) -> ObjectInfo:
        """Return what a listing would say of an object."""
        with _translated(path):
            found = obstore.head(self._backend, path)
        return ObjectInfo(found["path"], found["size"], found["last_modified"])

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield every object under a folder, in no particular order."""
        with _translated(prefix):
            async for batch in obstore.list(self._backend, prefix):
                for found in batch:
                    yield ObjectInfo(found["path"], found["size"], found["last_modified"])

    async def delete(self, path: str) -> None:
        """Delete an object; one that is not there is deleted already."""
        with _translated(path):
            try:
                await obstore.delete_async(self._backend, path)
            except FileNotFoundError:
                return

    def delete_sync(self, path: str) -> None:
        """Delete an object; one that is not there is deleted already."""
        with _translated(path):
            try:
                obstore.delete(self._backend, path)
            except FileNotFoundError:
                return

    async def sweep_staging(self, *, before: datetime) -> int:
        """Delete what uploads left behind that ended before that time; returns how many."""
        stale = [item.path async for item in self.list(paths.STAGING) if item.modified_at < before]
        for path in stale:
            await self.delete(path)
        return len(stale) + self._sweep_partial_files(before)

    def _sweep_partial_files(self, before: datetime) -> int:
        """Delete `<name>#<n>`, which the file backend writes to before an object appears, and
        which neither its listing shows nor its delete accepts."""
        if self._folder is None:
            return 0
        swept = 0
        with _translated(paths.STAGING):
            for file in (self._folder / paths.STAGING).glob("*#*"):
                if file.stat().st_mtime < before.timestamp():
                    file.unlink(missing_ok=True)
                    swept += 1
        return swept


def open_object_store(url: str) -> ObjectStore:
    """Return the store at a URL: `file:///folder` (made 0700 if it is not there) or `memory:///`.

    Raises StorageError for a URL that says anything else.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.netloc:
        raise StorageError("object store URL", expected="file:///folder or memory:///")
    if parts.scheme == "memory":
        return ObjectStore(MemoryStore())
    if parts.scheme == "file" and parts.path.startswith("/"):
        folder = Path(unquote(parts.path))
        _make_private_folder(folder)
        return ObjectStore(LocalStore(prefix=folder, automatic_cleanup=True), folder=folder)
    raise StorageError(
        "object store URL", expected="file:///folder or memory:///", found=shown(parts.scheme)
    )


def _make_private_folder(folder: Path) -> None:
    """The folder's own mode keeps others out of files whose mode is the process's umask."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = stat.S_IMODE(folder.stat().st_mode)
    except OSError as error:
        raise StorageUnavailableError(f"cannot make {folder}: {error.strerror}") from None
    if found & 0o077:
        raise StorageError(
            f"{folder} is open to others; run: chmod 0700 {folder}",
            expected="mode 0700",
            found=f"{found:04o}",
        )


class _SourceError(Exception):
    """Carries what a source of chunks raised past the translation of the store's own errors."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self.reason = reason


async def _marked(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except Exception as reason:
        raise _SourceError(reason) from reason


def _check_size(path: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TooLargeError(f"object {path}", expected=f"at most {max_bytes} bytes", found=size)


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Turn what obstore raises into our errors, by its first line: the rest is Rust's debugging."""
    try:
        yield
    except FileNotFoundError:
        raise ObjectNotFoundError(f"object {path} is not there") from None
    except (AlreadyExistsError, PreconditionError):
        raise ConflictError(f"object {path} is already there") from None
    except (BaseError, OSError, ValueError) as error:  # ValueError: the name is not one
        reason = str(error).partition("\n")[0]
        raise StorageUnavailableError(f"object {path}: {reason}") from None
