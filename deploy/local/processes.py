"""One long-running child process: started with a log file, watched, and stopped for certain."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from runtime.processes import die_with_parent

_TAIL_LINES: Final = 20
_TAIL_BYTES: Final = 1 << 16
_POLL_S: Final = 0.02


class ProcessError(Exception):
    """A child process ended, or could not be started; the message holds the end of its log."""


@dataclass
class ChildProcess:
    """A child in a process group of its own, which the kernel kills when this process dies.

    Start it from a thread that lives as long as it should: the kernel's watch is on the thread.
    """

    name: str
    arguments: Sequence[str]
    environ: Mapping[str, str] = field(repr=False)
    log: Path
    stop_grace_s: float = 20.0  # between SIGTERM and SIGKILL

    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def start(self) -> None:
        """Start it; its output goes to the end of the log. Raises ProcessError."""
        parent_id = os.getpid()
        try:
            with self.log.open("ab") as log:
                self.log.chmod(0o600)
                self._process = subprocess.Popen(
                    self.arguments,
                    env=dict(self.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for the parent, which stops us in order
                    preexec_fn=lambda: die_with_parent(parent_id),  # noqa: PLW1509
                )
        except OSError as error:
            raise ProcessError(f"{self.name} could not be started: {error}") from error

    @property
    def pid(self) -> int:
        """Its process id; raises ProcessError before it was started."""
        if self._process is None:
            raise ProcessError(f"{self.name} was not started")
        return self._process.pid

    @property
    def started(self) -> bool:
        """Whether it was ever started."""
        return self._process is not None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def check(self) -> None:
        """Return if it is running; raises ProcessError with the end of its log."""
        if not self.running:
            status = None if self._process is None else self._process.returncode
            raise ProcessError(
                f"{self.name} ended with status {status}; the end of {self.log}:\n{self.log_tail()}"
            )

    def log_tail(self) -> str:
        """The last lines of its log."""
        with contextlib.suppress(FileNotFoundError), self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])
        return ""

    def terminate(self) -> None:
        """Ask it to end, without waiting."""
        if self._process is not None and self.running:
            self._process.terminate()

    def kill(self) -> None:
        """End it and its group at once, as a crash would, and wait until it is gone."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end, wait for the grace period, then end whatever is left of its group."""
        if self._process is None:
            return
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.stop_grace_s)
        self.kill()
        _await_group(self._process.pid, timeout_s=5.0)


def _await_group(group: int, *, timeout_s: float) -> None:
    """Wait until no process of the group is left; the dead are reaped by their own parents."""
    deadline = time.monotonic() + timeout_s
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(_POLL_S)
