"""Appends to the audit log: many writers, one chain, one commit for all who wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.audit.record import AuditEvent, AuditHead
from gateway.clock import Clock
from gateway.db.engine import Database


class AuditLog(Protocol):
    """Where everything that happened is written before it counts."""

    async def append(self, event: AuditEvent) -> int:
        """Return the record's sequence number once it is durable.

        The event is queued before the first suspension: cancelling the wait does not withdraw
        it. Raises AuditUnavailableError when it was not known to be durable within the timeout;
        the caller must then not do what it announced.
        """
        ...

    async def append_within(self, connection: AsyncConnection, event: AuditEvent) -> int:
        """Write the record in the caller's own write transaction; durable when that commits.

        Make it the transaction's last statement: it holds the chain's head until the commit.
        """
        ...


class SqlAuditLog:
    """The audit log in the gateway's database, with group commit (see `open_audit_log`)."""

    def __init__(self, database: Database, clock: Clock, *, timeout_s: float) -> None:
        raise NotImplementedError

    async def append(self, event: AuditEvent) -> int:
        """See AuditLog."""
        raise NotImplementedError

    async def append_within(self, connection: AsyncConnection, event: AuditEvent) -> int:
        """See AuditLog."""
        raise NotImplementedError

    async def head(self) -> AuditHead:
        """Return where the chain ends now."""
        raise NotImplementedError


@asynccontextmanager
async def open_audit_log(
    database: Database, clock: Clock, *, timeout_s: float = 2.0
) -> AsyncIterator[SqlAuditLog]:
    """Open the log; at the end, what is queued is written before the writer stops."""
    raise NotImplementedError
    yield
