"""Engine names that failed inside a step: their cached key-value blocks are wrong for good."""

from __future__ import annotations

import threading

from adapter_store.types import EngineName

MAX_FAILED_NAMES = 4096
"""Half a megabyte of names; when it is full the engine is restarted, which empties its caches."""


class FailedNames:
    """The names that this engine must never serve again. Thread-safe.

    A step that ran without an adapter's weights leaves prefix-cache blocks under the adapter's
    name that were computed without them. Only a new name (a new epoch) or a new engine is safe.
    """

    def __init__(self, *, capacity: int = MAX_FAILED_NAMES) -> None:
        self._capacity = capacity
        self._names: set[EngineName] = set()
        self._lock = threading.Lock()

    def add(self, name: EngineName) -> None:
        with self._lock:
            if len(self._names) < self._capacity:
                self._names.add(name)

    def __contains__(self, name: EngineName) -> bool:
        """True for a failed name; true for every name once the memory is full (fails closed)."""
        with self._lock:
            return name in self._names or len(self._names) >= self._capacity

    @property
    def full(self) -> bool:
        with self._lock:
            return len(self._names) >= self._capacity

    def clear(self) -> None:
        """Forget all: for a new engine, whose caches are empty."""
        with self._lock:
            self._names.clear()
