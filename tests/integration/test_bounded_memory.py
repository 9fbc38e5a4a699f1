"""A package of a gibibyte is packed and ingested in a few mebibytes of memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_MIB = 64
SIZE_MIB = int(os.environ.get("LARGE_PACKAGE_MIB", "1088"))


@pytest.mark.slow
def test_a_large_package_takes_little_memory(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.integration.bounded_memory", tmp_path, str(SIZE_MIB)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    for file in tmp_path.rglob("*.*"):
        file.unlink(missing_ok=True) if file.is_file() else None
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert report["package_bytes"] > SIZE_MIB << 20
    assert 0 < report["pack_mib"] <= LIMIT_MIB
    assert 0 < report["ingest_mib"] <= LIMIT_MIB
