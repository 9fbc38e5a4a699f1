"""`tensafe`: builds the command tree, runs it, and turns every error into a line and a code."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import typer

from adapter_store.errors import AdapterStoreError
from gateway.cli import adapters, audit, keys, tenants
from gateway.cli.errors import CliError, ExitCode
from gateway.cli.output import say_error
from gateway.errors import (
    AuditUnavailableError,
    GatewayError,
    NotFoundError,
    StoreUnavailableError,
    UpstreamError,
)

COMMANDS_GROUP = "tensafe.commands"

_HELP = """Serve many tenants' private LoRA adapters from one shared base model.

[bold]First steps[/bold]: `tensafe demo` shows everything on this machine. Then
`tensafe gateway init`, `tensafe pool serve MODEL`, `tensafe gateway serve`.

[bold]Exit codes[/bold]: 0 done; 1 refused, or a check failed; 2 wrong usage; 3 no key or not
allowed; 4 not found; 5 something is away, try again; 130 interrupted.
"""


def build() -> typer.Typer:
    """Return the whole command tree; processes add theirs through entry points."""
    app = typer.Typer(
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.add_typer(tenants.app, name="tenant")
    app.add_typer(keys.app, name="key")
    app.add_typer(adapters.app, name="adapter")
    app.add_typer(audit.app, name="audit")
    for entry in sorted(entry_points(group=COMMANDS_GROUP), key=lambda entry: entry.name):
        app.add_typer(entry.load(), name=entry.name)
    return app


def main() -> None:
    """Run the command line; never shows a traceback for an error that somebody can act on."""
    try:
        build()()
    except CliError as error:
        say_error(str(error), code=error.code)
        sys.exit(error.exit_code)
    except (AdapterStoreError, GatewayError) as error:
        say_error(str(error), code=error.code)
        sys.exit(_exit_code(error))


def _exit_code(error: AdapterStoreError | GatewayError) -> ExitCode:
    if isinstance(error, NotFoundError):
        return ExitCode.NOT_FOUND
    if isinstance(error, (StoreUnavailableError, AuditUnavailableError, UpstreamError)):
        return ExitCode.UNAVAILABLE
    return ExitCode.REFUSED
