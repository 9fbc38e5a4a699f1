"""Writes the audit log out as JSON lines that can be verified anywhere."""

from __future__ import annotations

from collections.abc import AsyncIterator

from gateway.db.engine import Database


def export(database: Database, *, after: int = 0) -> AsyncIterator[bytes]:
    """Yield the log as JSON lines, each ending in a newline: start, records, head.

    Holds as of the moment it begins; memory is bounded by one page of records. `after` leaves
    out the records up to that sequence number.
    """
    raise NotImplementedError
