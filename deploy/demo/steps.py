"""Progress of the demo's steps: bars where somebody watches, a line for each step elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Steps:
    """Shows steps on the error stream, several at a time."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}[/dim]"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bars.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.__exit__(kind, error, traceback)

    def hide(self) -> None:
        """Show nothing more: the screen is somebody else's now."""
        self._bars.stop()

    def begin(self, name: str, note: str = "") -> None:
        """Show a step from now on."""
        if name not in self._tasks:
            self._started[name] = time.monotonic()
            self._tasks[name] = self._bars.add_task(name, total=None, note=note)

    def advance(self, name: str, done: int, total: int, note: str = "") -> None:
        """Show how far a step is."""
        self.begin(name)
        self._bars.update(self._tasks[name], completed=done, total=total, note=note)

    def finish(self, name: str, note: str = "") -> None:
        """Show that a step is done, and what came of it."""
        self.begin(name)
        self._bars.update(self._tasks[name], completed=1, total=1, note=note)
        if self._bars.disable:
            seconds = time.monotonic() - self._started[name]
            self._console.print(f"✓ {name} ({seconds:.1f} s) {note}".rstrip(), markup=False)
