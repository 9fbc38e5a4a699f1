"""How commands speak: a table or sentences for people, one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Table

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]

Row = Mapping[str, Any]


def say_record(record: Row, *, as_json: bool, sentence: str) -> None:
    """Print one thing: its JSON, or a sentence about it."""
    if as_json:
        _print_json(record)
    else:
        Console(highlight=False, soft_wrap=True).print(sentence, markup=False)


def say_fields(record: Row, *, as_json: bool, title: str) -> None:
    """Print one thing with all that is known of it."""
    if as_json:
        _print_json(record)
        return
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in record.items():
        table.add_row(name, _cell(value))
    Console().print(table)


def say_rows(rows: Iterable[Row], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print many things of one kind: a JSON array, or a table of `columns`."""
    rows = list(rows)
    if as_json:
        _print_json(rows)
        return
    if not rows:
        Console().print(empty, markup=False)
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console().print(table)


def say_error(message: str, *, code: str) -> None:
    """Print an error where errors go; as JSON when the command was asked for JSON."""
    if "--json" in sys.argv:
        sys.stderr.write(json.dumps({"error": {"code": code, "message": message}}) + "\n")
    else:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"error: {message}", markup=False, style="red"
        )


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show that something is going on, on the error stream, if a person is watching."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield


@contextmanager
def byte_progress(text: str, total: int | None) -> Iterator[ByteProgress]:
    """Show a bar of bytes done, on the error stream, if a person is watching."""
    console = Console(stderr=True)
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with progress:
        yield ByteProgress(progress, text, total)


class ByteProgress:
    """A bar that is told how far it is."""

    def __init__(self, progress: Progress, text: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(text, total=total)

    def __call__(self, done: int, total: int) -> None:
        """Set the bar to `done` of `total` bytes."""
        self._progress.update(self._task, completed=done, total=total)

    def counting(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield `chunks` as they are, and count them."""
        for chunk in chunks:
            yield chunk
            self._progress.advance(self._task, len(chunk))


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return json.dumps(value, indent=2, ensure_ascii=False)
    return str(value)
