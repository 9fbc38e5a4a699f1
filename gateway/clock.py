"""The time of day and the time that passes, as something that is passed in."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where every domain object takes its time from."""

    def now(self) -> datetime:
        """Return the current time of day, in UTC and aware of it."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only ever grow, for measuring how long something took."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the current time of day, in UTC and aware of it."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the seconds of the machine's monotonic clock."""
        return time.monotonic()
