"""Fixtures of the gateway's tests: both databases, a clock that stands still, an audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.audit.log import SqlAuditLog, open_audit_log
from gateway.db.engine import Database
from tests.databases import (
    database,
    database_url,
    dialect,
    empty_database_url,
    postgres_server,
    postgres_url,
    sqlite_template,
)
from tests.fakes.clock import FakeClock

__all__ = [
    "database",
    "database_url",
    "dialect",
    "empty_database_url",
    "postgres_server",
    "postgres_url",
    "sqlite_template",
]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def audit(database: Database, clock: FakeClock) -> AsyncIterator[SqlAuditLog]:
    async with open_audit_log(database, clock) as log:
        yield log
