"""`tensafe`: builds the command tree, runs it, and turns every error into a line and a code."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from adapter_store.errors import AdapterStoreError
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


class EntryPointGroup(TyperGroup):
    """Groups of commands that are entry points, each imported when it is called.

    So the gateway never imports the engine, and no command waits for another's libraries.
    """

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the names of all groups."""
        return sorted(entry.name for entry in entry_points(group=COMMANDS_GROUP))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Return the group of this name, or None."""
        for entry in entry_points(group=COMMANDS_GROUP, name=cmd_name):
            command = typer.main.get_command(entry.load())
            command.name = cmd_name
            return command
        return None


def build() -> typer.Typer:
    """Return the command tree."""
    app = typer.Typer(
        cls=EntryPointGroup,
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(_no_options_of_its_own)
    return app


def main() -> None:
    """Run the command line; never shows a traceback for an error that somebody can act on."""
    try:
        build()()
    except KeyboardInterrupt:  # while a command was being imported
        sys.exit(ExitCode.INTERRUPTED)
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


def _no_options_of_its_own() -> None:
    """Make the app a group although no command is registered with it."""
