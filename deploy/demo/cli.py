"""`tensafe demo`: the whole product on this machine, in a minute or two."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.errors import CliError, ExitCode
from gateway.cli.output import JsonOption

if TYPE_CHECKING:
    from deploy.demo.onboarding import Tenant
    from deploy.demo.results import Outcome

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def demo(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PATH_OR_HUB_ID",
            help="Base model to use, instead of one that is trained here and kept for next time.",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it running until Ctrl-C, and say how to call it.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what was measured and checked as JSON."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Two tenants, two encrypted adapters, one vLLM: everything real, on this machine.

    Makes a small base model from the Python standard library's own text, trains an adapter for
    each of two tenants (one of them with differential privacy), packs, uploads and serves them,
    talks to them with the OpenAI SDK, then tries what must not work. Needs nothing, leaves
    nothing but the base model in ~/.cache/tensafe.

    Exit status: 0 if every check holds, 1 if one does not or a step failed, 130 after Ctrl-C.
    """
    if report is not None and not report.absolute().parent.is_dir():
        message = f"{report.absolute().parent} does not exist: choose another place for --report"
        raise CliError(message, code="wrong_usage", exit_code=ExitCode.USAGE)
    try:
        outcome = _run(model, keep=keep, quiet=as_json)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; nothing is left running\n")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if report is not None:
        outcome.report().write(report)
    if as_json:
        sys.stdout.write(outcome.report().to_json())
    if not outcome.holds:
        raise CliError("a check does not hold: see the lines marked ✗", code="check_failed")


def _run(model: str | None, *, keep: bool, quiet: bool) -> Outcome:
    # Imported here, so that the other commands do not wait for the SDK and for rich.
    from rich.console import Console

    from deploy.demo.places import stopping_on_sigterm
    from deploy.demo.run import run_demo
    from deploy.demo.steps import Steps
    from deploy.demo.tables import print_instructions, print_outcome
    from deploy.local.processes import ProcessError
    from deploy.local.stack import StackError
    from training.corpus import CorpusError

    console = Console(quiet=quiet)

    def keep_running(outcome: Outcome, base_url: str, tenant: Tenant) -> None:
        print_outcome(outcome, console)
        print_instructions(base_url, tenant, Console(stderr=quiet))
        try:
            signal.pause()
        except KeyboardInterrupt:
            console.print("stopping …")

    try:
        with stopping_on_sigterm(), Steps() as steps:
            outcome = run_demo(model, steps, keep_running=keep_running if keep else None)
    except (StackError, ProcessError, CorpusError) as error:
        raise CliError(str(error), code="demo_failed") from error
    if not keep:
        print_outcome(outcome, console)
    return outcome
