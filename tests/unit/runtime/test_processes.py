"""Whatever an engine's first process has started ends with it, even before it tied itself to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STARTER = """
import os, subprocess, sys, time
from runtime.processes import group_dies_with_this_process
if {guarded}:
    group_dies_with_this_process()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""
LONGEST_S = 8.0


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def dies(process: int, *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while alive(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(process)


def child_of_a_killed_starter(*, guarded: bool, leader: bool) -> int:
    program = STARTER.format(guarded=guarded)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=leader
    ) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        assert alive(child)
        starter.send_signal(signal.SIGKILL)
        starter.stdout.close()
    return child


def test_the_guard_ends_the_group_of_a_killed_leader() -> None:
    assert dies(child_of_a_killed_starter(guarded=True, leader=True), within_s=LONGEST_S)


@pytest.mark.parametrize(
    ("guarded", "leader"),
    [(False, True), (True, False)],
    ids=["no guard", "a group that belongs to somebody else"],
)
def test_without_a_guard_or_a_group_of_its_own_nothing_else_is_ended(
    guarded: bool, leader: bool
) -> None:
    child = child_of_a_killed_starter(guarded=guarded, leader=leader)
    try:
        assert not dies(child, within_s=3.0)
    finally:
        os.kill(child, signal.SIGKILL)
