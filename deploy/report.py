"""What a measured run says: the machine, its rows, and the bars that it holds or misses."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise, measured: `value` against `limit` (in words), and whether it holds."""

    name: str
    value: float | int | str | bool
    limit: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one run measured, as `--report` and `--json` write it."""

    rows: list[Mapping[str, Any]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every bar holds."""
        return all(bar.holds for bar in self.bars)

    def to_json(self) -> str:
        """Return the report as a JSON document."""
        document = {
            "machine": describe_machine(),
            "rows": [dict(row) for row in self.rows],
            "bars": [asdict(bar) for bar in self.bars],
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    def write(self, path: Path) -> None:
        """Write the report to `path`, replacing what is there."""
        path.write_text(self.to_json())


def describe_machine() -> dict[str, str | int]:
    """Return what a reader needs to compare this run with another."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
