"""Where the demo keeps things, and that nothing of them stays: folders, processes, signals."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from adapter_store.peft.safetensors import parse_header

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  a tmpfs: never written to a disk
_PREFIX: Final = "tensafe-demo-"
_LOCK: Final = "lock"  # held for as long as the folder is in use
_NEEDLE_BYTES: Final = 48
_SIGTERM_STATUS: Final = 128 + signal.SIGTERM


@contextmanager
def home_directory() -> Iterator[Path]:
    """A private folder for one deployment, removed at the end."""
    with _private_directory(Path(tempfile.gettempdir())) as home:
        yield home


@contextmanager
def plaintext_directory() -> Iterator[Path]:
    """A private folder for adapters that are not packed yet: in memory where that is possible."""
    in_memory = _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK)
    parent = _SHARED_MEMORY if in_memory else Path(tempfile.gettempdir())
    with _private_directory(parent) as directory:
        yield directory


@contextmanager
def _private_directory(parent: Path) -> Iterator[Path]:
    _remove_abandoned(parent)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        with (directory / _LOCK).open("xb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory
    finally:
        remove_directory(directory)


def _remove_abandoned(parent: Path) -> None:
    """Remove what a run left behind that was killed before it could: nobody holds its lock."""
    for directory in parent.glob(f"{_PREFIX}*"):
        try:
            with (directory / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_directory(directory)
        except OSError:
            continue  # in use, just being made, or not ours


def remove_directory(directory: Path) -> None:
    """Remove a folder and all that is in it, undisturbed; fine if it is gone already."""
    with not_interrupted():
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """Make SIGTERM end the program through every `finally`, as Ctrl-C does."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(_SIGTERM_STATUS)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def not_interrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM off while things are stopped and removed."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def weight_samples(adapter_dir: Path) -> list[bytes]:
    """A stretch of bytes from the middle of every tensor that is not all zero."""
    data = memoryview((adapter_dir / "adapter_model.safetensors").read_bytes())
    samples = []
    for tensor in parse_header(lambda start, end: data[start:end], len(data)):
        middle = (tensor.start + tensor.end) // 2
        sample = bytes(data[middle : min(middle + _NEEDLE_BYTES, tensor.end)])
        if any(sample):
            samples.append(sample)
    return samples


def files_with(needles: list[bytes], directory: Path) -> list[Path]:
    """Every regular file under `directory` that contains one of `needles`."""
    found = []
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue  # a journal that was just folded into its database
            if any(needle in content for needle in needles):
                found.append(path)
    return found


def processes_of(home: Path) -> list[int]:
    """Ids of the processes whose environment names `home`, other than this one."""
    needle = os.fsencode(home)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:
            continue  # gone, or another user's
        if needle in environment and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


def shared_memory_of(processes: list[int]) -> set[Path]:
    """The files in shared memory that these processes have mapped."""
    found = set()
    for process in processes:
        try:
            maps = Path(f"/proc/{process}/maps").read_text()
        except OSError:
            continue  # gone meanwhile
        fields = (line.split(maxsplit=5) for line in maps.splitlines())
        paths = (Path(field[5]) for field in fields if len(field) == 6)
        found |= {path for path in paths if path.is_relative_to(_SHARED_MEMORY) and path.exists()}
    return found
