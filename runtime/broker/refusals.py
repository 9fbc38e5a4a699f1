"""Which errors of the adapter store mean absent, which broken, and which only not there yet."""

from __future__ import annotations

from adapter_store.errors import (
    AdapterStoreError,
    InvalidNameError,
    KeyNotFoundError,
    KeyProviderUnavailableError,
    NotActiveError,
    ObjectNotFoundError,
    RecordExpiredError,
    StorageUnavailableError,
    WrongEpochError,
)
from runtime.broker.protocol import RefusalKind, Refused

ABSENT = (
    InvalidNameError,
    KeyNotFoundError,  # shredded, or never admitted
    NotActiveError,
    ObjectNotFoundError,
    RecordExpiredError,
    WrongEpochError,
)
"""Whoever knows only a digest learns no more from these than from a name that never was."""

UNAVAILABLE = (KeyProviderUnavailableError, StorageUnavailableError)


def refusal_of(error: AdapterStoreError) -> Refused:
    """Return the reply for `error`: its code, never its text."""
    return Refused(error.code, _kind_of(error))


def is_temporary(error: AdapterStoreError) -> bool:
    """Return whether the same request may succeed later without anything being changed."""
    return isinstance(error, UNAVAILABLE)


def _kind_of(error: AdapterStoreError) -> RefusalKind:
    if isinstance(error, ABSENT):
        return "absent"
    if is_temporary(error):
        return "unavailable"
    return "unusable"
