"""Checks a chain of audit records, offline, from the database or from an export."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.audit.record import AuditHead
from gateway.db.engine import Database
from gateway.errors import GatewayError


class AuditTamperedError(GatewayError):
    """The log is not what was written: says at which record, what was expected and found."""

    code = "audit_tampered"


def verify_export(lines: Iterable[bytes], *, expected_head: AuditHead | None = None) -> AuditHead:
    """Return the head of an exported log whose every byte is in place.

    `expected_head`, kept elsewhere, also detects a log that was cut short or rewritten together
    with its head. Raises AuditTamperedError.
    """
    raise NotImplementedError


async def verify_database(
    database: Database, *, expected_head: AuditHead | None = None
) -> AuditHead:
    """Return the head of the log in the database; raises AuditTamperedError."""
    raise NotImplementedError
