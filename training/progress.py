"""How long work tells its caller where it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One step of a piece of work: `done` of `total`, and the loss where there is one."""

    activity: str
    done: int
    total: int
    loss: float | None = None


OnProgress = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """The callback of a caller that does not want to know."""
