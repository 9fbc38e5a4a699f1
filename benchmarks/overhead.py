"""What the gateway costs: added latency and requests per second, against the engine itself.

Usage: python -m benchmarks.overhead [--quick] [--json FILE]

Two engines, each loaded directly on its socket and through the gateway in the same run: one that
answers at once, which shows the gateway alone, and a real vLLM with an encrypted adapter. The
gateway runs as it ships, in one process, with authentication, and with a durable audit record
before and after every request.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from adapter_store.tssp.privacy import NoPrivacy
from benchmarks.load import Measured, Target, measure
from benchmarks.null_engine import MODEL as NULL_MODEL
from deploy.demo.onboarding import Http, create_tenant, pack_adapter, serve_package
from deploy.local.stack import LocalStack
from deploy.report import Bar, Report

CONNECTIONS: Final = {"null engine": (1, 8, 32), "vLLM": (1, 16)}
MAX_TOKENS: Final = 16
MAX_ADDED_P50_MS: Final = 5.0
"""Two commits to the audit log are in this number; without them it is below one millisecond."""
MIN_SHARE_OF_VLLM: Final = 0.8
"""Of the engine's own requests per second, through the gateway, on the cores that both share."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An engine, and the gateway in front of it."""

    engine: str
    direct: Target
    gateway: Target


def run(*, seconds: float, console: Console) -> Report:
    """Measure both engines and return the report."""
    report = Report()
    for open_pair in (open_null_engine, open_vllm):
        with console.status(f"starting: {open_pair.__doc__}"), open_pair() as pair:
            for connections in CONNECTIONS[pair.engine]:
                console.print(f"{pair.engine}, {connections} connections …", style="dim")
                report.rows.append(_row(pair, connections, seconds))
    report.bars.extend(_bars(report.rows))
    return report


@contextmanager
def open_null_engine() -> Iterator[Pair]:
    """An engine that answers at once, in place of the pool."""
    with _home() as home, LocalStack.create(home, model="unused") as stack:
        pool_dir = home / "pool"
        pool_dir.mkdir(mode=0o700)
        command = [sys.executable, "-m", "benchmarks.null_engine", str(pool_dir)]
        stack.pool = replace(stack.pool, name="the null engine", arguments=command)
        stack.start()
        stack.wait_until_ready()
        with Http(stack.base_url, stack.admin_key) as admin:
            tenant = create_tenant(admin, "acme", name="", adapter="unused")
        yield _pair("null engine", stack, tenant.api_key, model=NULL_MODEL, engine_model=NULL_MODEL)


@contextmanager
def open_vllm() -> Iterator[Pair]:
    """A real vLLM with a tenant's encrypted adapter."""
    # Tensor libraries are of no use before this point.
    from training.base_model import cached_base_model
    from training.corpus import load_corpus
    from training.lora import LoraSettings, train_lora
    from training.recipes import TINY

    model = cached_base_model(TINY)
    options = ("--dtype=float32", "--kv-cache-gib=0.25")
    with (
        _home() as home,
        tempfile.TemporaryDirectory() as folder,
        LocalStack.create(home, model=model, pool_arguments=options) as stack,
    ):
        stack.start()
        settings = LoraSettings(steps=5, max_seconds=5)
        train_lora(model, load_corpus().mail.train[:64], Path(folder), settings=settings)
        stack.wait_until_ready()
        with Http(stack.base_url, stack.admin_key) as admin:
            tenant = create_tenant(admin, "acme", name="", adapter="mail")
        with Http(stack.base_url, tenant.api_key) as own:
            package = home / "mail.tssp"
            pack_adapter(own, tenant, Path(folder), package, privacy=NoPrivacy(dataset="mail"))
            adapter = serve_package(own, package)
        engine_model = f"ts-acme-{adapter['digest']}-1"
        yield _pair("vLLM", stack, tenant.api_key, model="mail", engine_model=engine_model)


def _pair(engine: str, stack: LocalStack, key: str, *, model: str, engine_model: str) -> Pair:
    def body(name: str) -> bytes:
        message = {"role": "user", "content": "What is a class definition?"}
        request = {"model": name, "messages": [message], "max_tokens": MAX_TOKENS}
        return json.dumps({**request, "temperature": 0}).encode()

    path, headers = "/v1/chat/completions", {"content-type": "application/json"}
    socket = str(stack.home / "pool" / "engine.sock")
    return Pair(
        engine=engine,
        direct=Target(
            "direct", "http://engine", path, body(engine_model), headers, b"choices", socket
        ),
        gateway=Target(
            "gateway",
            stack.base_url,
            path,
            body(model),
            {**headers, "authorization": f"Bearer {key}"},
            b"choices",
        ),
    )


@contextmanager
def _home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ts-bench-") as folder:
        yield Path(folder) / "home"


def _row(pair: Pair, connections: int, seconds: float) -> dict[str, Any]:
    direct, gateway = (
        asyncio.run(measure(target, connections=connections, seconds=seconds))
        for target in (pair.direct, pair.gateway)
    )
    return {
        "engine": pair.engine,
        "connections": connections,
        "direct_requests_per_s": round(direct.requests_per_s, 1),
        "gateway_requests_per_s": round(gateway.requests_per_s, 1),
        "share": round(gateway.requests_per_s / direct.requests_per_s, 3),
        **_latencies("direct", direct),
        **_latencies("gateway", gateway),
        "added_p50_ms": round(gateway.percentile(50) - direct.percentile(50), 3),
    }


def _latencies(name: str, measured: Measured) -> dict[str, float]:
    return {f"{name}_p{p}_ms": round(measured.percentile(p), 3) for p in (50, 99)}


def _bars(rows: Sequence[Any]) -> Iterator[Bar]:
    by_case = {(row["engine"], row["connections"]): row for row in rows}
    added = by_case["null engine", 1]["added_p50_ms"]
    yield Bar(
        "added p50 at 1 connection, ms",
        added,
        f"at most {MAX_ADDED_P50_MS:g}",
        added <= MAX_ADDED_P50_MS,
    )
    share = by_case["vLLM", 16]["share"]
    yield Bar(
        "requests per second through the gateway ÷ vLLM's own, 16 connections",
        share,
        f"at least {MIN_SHARE_OF_VLLM:g}",
        share >= MIN_SHARE_OF_VLLM,
    )


def main(
    quick: Annotated[bool, typer.Option("--quick", help="About a minute.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")
    ] = None,
) -> None:
    """Measure the gateway's added latency and requests per second against the engine itself."""
    console = Console(stderr=True)
    report = run(seconds=2.0 if quick else 10.0, console=console)
    table = Table(*(name.replace("_", " ") for name in report.rows[0]))
    for row in report.rows:
        table.add_row(*map(str, row.values()))
    output = Console(width=None if sys.stdout.isatty() else 160)
    output.print(table)
    for bar in report.bars:
        output.print(f"{'holds ' if bar.holds else 'MISSED'} {bar.name}: {bar.value} ({bar.limit})")
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    typer.run(main)
