"""Decrypted adapters in memory: wiped when done with, shared as sealed memory files."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from cachetools import TTLCache

from adapter_store.loading import wipe
from adapter_store.types import EngineName


class PlaintextAdapter(Protocol):
    """What a loader returns: a PEFT configuration and the bytes of a safetensors file."""

    @property
    def config_json(self) -> bytes: ...

    @property
    def tensors(self) -> memoryview: ...


LoadPlaintext = Callable[[EngineName], PlaintextAdapter]


@dataclass(slots=True)
class HeldAdapter:
    """One decrypted adapter; after `wipe` its tensors are zeroes and it shares no more."""

    config_json: bytes
    size: int
    _tensors: memoryview = field(repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _wiped: bool = False

    def share(self) -> int | None:
        """Return a new sealed memory file with the tensors, or None when they were wiped."""
        with self._lock:
            return None if self._wiped else _sealed_memory_file(self._tensors)

    def wipe(self) -> None:
        with self._lock:
            if not self._wiped:
                wipe(self._tensors)
                self._wiped = True


class AdapterMemory:
    """Decrypted adapters, bounded in bytes and in age, each loaded once however many ask.

    Thread-safe. An adapter larger than the bound is served but not kept. What leaves the
    cache, for whatever reason, is overwritten with zeroes.
    """

    def __init__(
        self,
        load: LoadPlaintext,
        *,
        max_bytes: int,
        ttl_s: float,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._held = _WipingCache(
            maxsize=max_bytes, ttl=ttl_s, timer=timer, getsizeof=lambda held: max(held.size, 1)
        )
        self._loading: dict[EngineName, Future[HeldAdapter]] = {}
        self._lock = threading.Lock()

    def get(self, name: EngineName) -> HeldAdapter:
        """Return the adapter, loading it if needed; raises what the loader raises."""
        with self._lock:
            held = self._held.get(name)
            if held is not None:
                return held
            flight = self._loading.get(name)
            leader = flight is None
            if flight is None:
                flight = self._loading[name] = Future()
        if leader:
            self._fly(name, flight)
        return flight.result()

    def evict(self, name: EngineName) -> None:
        """Forget the adapter and overwrite its tensors."""
        with self._lock:
            held = self._held.pop(name, None)
        if held is not None:
            held.wipe()

    def expire(self) -> None:
        """Drop what is too old; called now and then, so that an idle pool forgets as well."""
        with self._lock:
            self._held.expire()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            names = list(self._held)
        for name in names:
            self.evict(name)
        self.expire()

    def __len__(self) -> int:
        with self._lock:
            return len(self._held)

    def _fly(self, name: EngineName, flight: Future[HeldAdapter]) -> None:
        try:
            plaintext = self._load(name)
        except BaseException as error:
            with self._lock:
                del self._loading[name]
            flight.set_exception(error)
            raise
        held = HeldAdapter(
            config_json=bytes(plaintext.config_json),
            size=len(plaintext.tensors),
            _tensors=plaintext.tensors,
        )
        with self._lock:
            del self._loading[name]
            if held.size <= self._held.maxsize:
                self._held[name] = held
        flight.set_result(held)


class _WipingCache(TTLCache[EngineName, HeldAdapter]):
    """A TTL and LRU cache whose values are wiped when they fall out of it."""

    def expire(self, time: float | None = None) -> list[tuple[EngineName, HeldAdapter]]:
        expired = list(super().expire(time))
        for _name, held in expired:
            held.wipe()
        return expired

    def popitem(self) -> tuple[EngineName, HeldAdapter]:
        name, held = super().popitem()
        held.wipe()
        return name, held


def _sealed_memory_file(content: memoryview) -> int:
    file = os.memfd_create("adapter", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        offset = 0
        while offset < len(content):
            offset += os.write(file, content[offset:])
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(file)
        raise
    return file
