"""A child is watched, stopped with its whole group, and never outlives the one that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.local.processes import ChildProcess, ProcessError

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
WITH_CHILD = (
    "import subprocess, sys; "
    f"child = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]); print(child.pid, flush=True); "
    "child.wait()"
)


def child(tmp_path: Path, program: str, *, grace_s: float = 5.0) -> ChildProcess:
    return ChildProcess(
        "the child", [sys.executable, "-c", program], os.environ, tmp_path / "log", grace_s
    )


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(path: Path, text: str, *, timeout_s: float = 10.0) -> str:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if path.exists() and text in path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{text!r} did not appear in {path}")


def test_a_running_child_passes_the_check_until_it_is_stopped(tmp_path: Path) -> None:
    process = child(tmp_path, SLEEPER)
    process.start()
    wait_for(process.log, "up")
    process.check()
    process.stop()
    assert not process.running
    with pytest.raises(ProcessError, match="the child ended with status -15"):
        process.check()


def test_a_child_that_ended_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    process = child(tmp_path, "import sys; sys.exit('the disk is full')")
    process.start()
    while process.running:
        time.sleep(0.02)
    with pytest.raises(ProcessError, match=r"status 1.*\n.*the disk is full"):
        process.check()


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    process = ChildProcess("the child", [str(tmp_path / "none")], {}, tmp_path / "log")
    with pytest.raises(ProcessError, match="could not be started"):
        process.start()


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    process = child(tmp_path, STUBBORN, grace_s=0.3)
    process.start()
    wait_for(process.log, "up")
    started = time.monotonic()
    process.stop()
    assert not process.running
    assert 0.3 <= time.monotonic() - started < 5


def test_stopping_a_child_ends_its_own_children_too(tmp_path: Path) -> None:
    process = child(tmp_path, WITH_CHILD)
    process.start()
    grandchild = int(wait_for(process.log, "\n").split()[0])
    assert alive(grandchild)
    process.stop()
    assert not alive(grandchild)


def test_a_child_dies_when_the_one_that_started_it_is_killed(tmp_path: Path) -> None:
    program = f"""
import os, sys, time
from pathlib import Path
from deploy.local.processes import ChildProcess
log = Path({str(tmp_path)!r}) / "log"
child = ChildProcess("x", [sys.executable, "-c", {SLEEPER!r}], os.environ, log)
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        started = int(starter.stdout.readline())
        assert alive(started)
        starter.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while alive(started) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(started)


def test_its_log_is_private_and_its_environment_not_shown(tmp_path: Path) -> None:
    process = ChildProcess("x", [sys.executable, "-c", ""], {"KEY": "secret"}, tmp_path / "log")
    process.start()
    process.stop()
    assert process.log.stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(process)
