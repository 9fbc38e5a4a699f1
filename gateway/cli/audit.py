"""`tensafe audit`: take the log out, and check that nothing in it was changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from gateway.audit.record import AuditHead
from gateway.audit.verify import verify_database, verify_export
from gateway.cli.client import DEFAULT_URL, KeyFileOption, UrlOption, open_client
from gateway.cli.errors import CliError, ExitCode
from gateway.cli.output import JsonOption, say_record, spinner
from gateway.cli.serve import load_settings
from gateway.db.engine import open_database

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The tamper-evident audit log.")


@app.command()
def export(
    output: Annotated[Path, typer.Argument(help="The file to write, as JSON lines.")],
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the whole log to a file that `tensafe audit verify` checks anywhere."""
    count = 0
    with (
        open_client(url, key_file) as gateway,
        spinner("exporting"),
        _open_output(output) as file,
    ):
        for line in gateway.lines("/admin/v1/audit"):
            file.write(line)
            count += 1
    sentence = f"{count} lines in {output}. Check them: `tensafe audit verify {output}`."
    say_record({"lines": count, "file": str(output)}, as_json=as_json, sentence=sentence)


@app.command()
def verify(
    exported: Annotated[
        Path | None, typer.Argument(help="An exported file; otherwise this machine's database.")
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="SEQUENCE:HASH",
            help="A head noted earlier, kept elsewhere: also detects a log rewritten as a whole.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check every record and link; exit code 1 and the first bad record if any byte is off."""
    noted = _parse_head(expect) if expect else None
    with spinner("verifying"):
        if exported is None:
            head = asyncio.run(_verify_own(noted))
        else:
            head = verify_export(_lines(exported), noted=noted)
    record = {"verified": True, "records": head.sequence, "head": head.hash.hex()}
    sentence = f"{head.sequence} records verified.\nHead: {head.sequence}:{head.hash.hex()}"
    say_record(record, as_json=as_json, sentence=sentence)


async def _verify_own(noted: AuditHead | None) -> AuditHead:
    async with open_database(load_settings().database_url) as database:
        return await verify_database(database, noted=noted)


def _open_output(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}", code="no_file") from error


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}", code="no_file") from error


def _parse_head(text: str) -> AuditHead:
    sequence, _, digest = text.partition(":")
    try:
        return AuditHead(sequence=int(sequence), hash=bytes.fromhex(digest))
    except ValueError as error:
        message = "expected --expect SEQUENCE:HASH as `audit verify` prints it"
        raise CliError(message, code="wrong_usage", exit_code=ExitCode.USAGE) from error
