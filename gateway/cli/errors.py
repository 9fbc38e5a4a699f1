"""Errors of the command line, and the exit codes that scripts can rely on."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What `tensafe` ends with; 130 is an interrupt (Ctrl-C)."""

    OK = 0
    REFUSED = 1  # the operation was understood and refused, or a check failed
    USAGE = 2  # the command line itself is wrong
    NOT_ALLOWED = 3  # no key, a wrong key, or a key without the scope
    NOT_FOUND = 4
    UNAVAILABLE = 5  # the gateway, its database or the pool is away; try again
    INTERRUPTED = 130


class CliError(Exception):
    """A command failed; the message says what happened and what to do next."""

    def __init__(
        self, message: str, *, code: str = "failed", exit_code: ExitCode = ExitCode.REFUSED
    ) -> None:
        super().__init__(message)
        self.code = code
        self.exit_code = exit_code
