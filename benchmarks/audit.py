"""What an audit record costs: durable appends per second, and the time until one is durable.

Usage: python -m benchmarks.audit [--quick] [--database-url URL] [--json FILE]

Every append is committed and flushed by the database before it counts. One writer shows what a
single request waits for, twice; many show what sharing a commit saves. The log is verified in the
end, or the numbers mean nothing.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from adapter_store.types import TenantId
from deploy.report import Bar, Report
from gateway.audit.log import SqlAuditLog, open_audit_log
from gateway.audit.record import AuditCount, AuditEvent, AuditKind
from gateway.audit.verify import verify_database
from gateway.clock import SystemClock
from gateway.db.engine import open_database
from gateway.db.migrations import migrate

WRITERS = (1, 32, 256)
MIN_SHARING = 4.0
"""Times as many appends by 32 writers as by one: less would mean that they do not share commits."""

_EVENT = AuditEvent(
    AuditKind.REQUEST_COMPLETED,
    actor="0123456789abcdef",
    tenant=TenantId("acme"),
    subject="a" * 64,
    request_id="req-0123456789abcdef",
    counts={AuditCount.PROMPT_TOKENS: 512, AuditCount.COMPLETION_TOKENS: 128},
)


async def measure(url: str, *, seconds: float) -> list[dict[str, Any]]:
    """Return a row for each number of writers on the database at `url`."""
    rows = []
    async with open_database(url) as database:
        await migrate(database)
        async with open_audit_log(database, SystemClock()) as log:
            await _append(log, writers=4, seconds=seconds / 4)  # warms up
            for writers in WRITERS:
                latencies_ms, elapsed_s = await _append(log, writers=writers, seconds=seconds)
                rows.append(_row(database.dialect, writers, latencies_ms, elapsed_s))
        began = time.perf_counter()
        head = await verify_database(database)
        rate = head.sequence / (time.perf_counter() - began)
        rows.append({"database": database.dialect, "verified_records_per_s": round(rate)})
    return rows


async def _append(log: SqlAuditLog, *, writers: int, seconds: float) -> tuple[list[float], float]:
    began = time.perf_counter()
    deadline = began + seconds
    latencies_ms: list[float] = []

    async def write() -> None:
        while (started := time.perf_counter()) < deadline:
            await log.append(_EVENT)
            latencies_ms.append((time.perf_counter() - started) * 1000)

    await asyncio.gather(*(write() for _ in range(writers)))
    return sorted(latencies_ms), time.perf_counter() - began


def _row(dialect: str, writers: int, latencies_ms: list[float], elapsed_s: float) -> dict[str, Any]:
    return {
        "database": dialect,
        "writers": writers,
        "appends_per_s": round(len(latencies_ms) / elapsed_s),
        "p50_ms": round(latencies_ms[len(latencies_ms) // 2], 2),
        "p99_ms": round(latencies_ms[len(latencies_ms) * 99 // 100], 2),
    }


def report(rows: list[dict[str, Any]]) -> Report:
    """Return the rows with the one promise that group commit makes."""
    rates = {
        (row["database"], row["writers"]): row["appends_per_s"] for row in rows if "writers" in row
    }
    bars = []
    for dialect in dict.fromkeys(database for database, _ in rates):
        sharing = rates[dialect, 32] / rates[dialect, 1]
        bars.append(
            Bar(
                f"{dialect}: 32 writers append times as much as one",
                round(sharing, 1),
                f"at least {MIN_SHARING:g}",
                sharing >= MIN_SHARING,
            )
        )
    return Report(list(rows), bars)


def main(
    quick: Annotated[bool, typer.Option(help="Two seconds a row instead of ten")] = False,
    database_url: Annotated[
        str | None, typer.Option(help="Measure this database as well (it is migrated and filled)")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file")] = None,
) -> None:
    """Measure durable audit appends."""
    seconds = 2.0 if quick else 10.0
    with tempfile.TemporaryDirectory(prefix="tensafe-audit-") as folder:
        rows = asyncio.run(measure(f"sqlite:///{folder}/gateway.db", seconds=seconds))
    if database_url is not None:
        rows += asyncio.run(measure(database_url, seconds=seconds))
    measured = report(rows)
    table = Table("database", "writers", "appends/s", "p50 ms", "p99 ms", "verified/s")
    names = ("database", "writers", "appends_per_s", "p50_ms", "p99_ms", "verified_records_per_s")
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in names))
    Console().print(table)
    if json is not None:
        measured.write(json)
    raise typer.Exit(0 if measured.holds else 1)


if __name__ == "__main__":
    typer.run(main)
