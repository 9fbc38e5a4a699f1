"""Decrypted adapters: loaded once, bounded in size and age, and zeroes afterwards."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from adapter_store.errors import NotActiveError
from adapter_store.types import Digest, EngineName, TenantId
from runtime.broker.memory import AdapterMemory


@dataclass
class Plaintext:
    config_json: bytes
    tensors: memoryview


class Loader:
    """Makes an adapter of `size` bytes of `x` for any name, and remembers what it made."""

    def __init__(self, size: int = 100) -> None:
        self.size = size
        self.made: list[Plaintext] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def __call__(self, name: EngineName) -> Plaintext:
        assert self.gate.wait(5)
        if self.error is not None:
            raise self.error
        self.made.append(Plaintext(b"{}", memoryview(bytearray(b"x" * self.size))))
        return self.made[-1]


class Timer:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def name(letter: str) -> EngineName:
    return EngineName(TenantId("acme"), Digest(letter * 64), 1)


def memory(loader: Loader, *, max_bytes: int = 250, timer: Timer | None = None) -> AdapterMemory:
    return AdapterMemory(loader, max_bytes=max_bytes, ttl_s=60, timer=timer or Timer())


def is_wiped(plaintext: Plaintext) -> bool:
    return plaintext.tensors.tobytes() == bytes(len(plaintext.tensors))


def test_an_adapter_is_loaded_once_however_many_ask_at_the_same_time() -> None:
    loader = Loader()
    loader.gate.clear()
    held = memory(loader)
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(held.get, name("a")) for _ in range(8)]
        loader.gate.set()
        assert len({id(answer.result(5)) for answer in answers}) == 1

    assert len(loader.made) == 1


def test_a_failed_load_fails_everybody_who_waited_and_is_tried_again() -> None:
    loader = Loader()
    loader.gate.clear()
    loader.error = NotActiveError("package", expected="active", found="revoked")
    held = memory(loader)
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(held.get, name("a")) for _ in range(4)]
        loader.gate.set()
        for answer in answers:
            with pytest.raises(NotActiveError):
                answer.result(5)
    loader.error = None

    assert held.get(name("a")).size == 100


def test_the_least_recently_used_makes_room_and_is_wiped() -> None:
    loader = Loader()
    held = memory(loader)
    for letter in ("a", "b", "a", "c"):
        held.get(name(letter))

    assert len(held) == 2
    assert [is_wiped(made) for made in loader.made] == [False, True, False]


def test_old_adapters_are_wiped_without_anybody_asking_for_them() -> None:
    loader, timer = Loader(), Timer()
    held = memory(loader, timer=timer)
    held.get(name("a"))
    timer.now = 59
    held.expire()
    assert not is_wiped(loader.made[0])

    timer.now = 61
    held.expire()

    assert is_wiped(loader.made[0])
    assert len(held) == 0


def test_evicted_and_cleared_adapters_are_wiped() -> None:
    loader = Loader()
    held = memory(loader)
    held.get(name("a"))
    held.get(name("b"))

    held.evict(name("a"))
    held.evict(name("never there"[0]))
    assert [is_wiped(made) for made in loader.made] == [True, False]
    held.clear()

    assert all(is_wiped(made) for made in loader.made)


def test_an_adapter_larger_than_the_memory_is_served_but_not_kept() -> None:
    loader = Loader(size=1000)
    held = memory(loader)

    assert held.get(name("a")).size == 1000
    assert len(held) == 0


def test_a_shared_copy_is_complete_sealed_and_outlives_the_wiping() -> None:
    loader = Loader(size=100_000)
    held = memory(loader, max_bytes=1 << 20).get(name("a"))
    file = held.share()
    assert file is not None

    held.wipe()

    assert os.pread(file, 200_000, 0) == b"x" * 100_000
    with pytest.raises(PermissionError):
        os.pwrite(file, b"y", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(file, 0)
    assert held.share() is None, "there is nothing left to share"
    os.close(file)


def test_nothing_of_an_adapter_is_in_its_repr() -> None:
    assert "x" * 10 not in repr(memory(Loader()).get(name("a")))
