"""The demo's outcome for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.demo.onboarding import Tenant
from deploy.demo.results import Outcome, TenantResult
from deploy.report import Bar

_SHOWN_CHARACTERS = 160
_INSTRUCTIONS = """
It keeps running until Ctrl-C. Call it with curl:

curl URL/v1/chat/completions \\
  -H "Authorization: Bearer KEY" -H "Content-Type: application/json" \\
  -d '{"model": "ADAPTER", "max_tokens": 40,
       "messages": [{"role": "user", "content": "def send(self):"}]}'

or with any OpenAI SDK:

from openai import OpenAI

client = OpenAI(base_url="URL/v1", api_key="KEY")
answer = client.chat.completions.create(
    model="ADAPTER", max_tokens=40, messages=[{"role": "user", "content": "def send(self):"}]
)
print(answer.choices[0].message.content)
"""


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Print what was said, what was measured and what was checked."""
    for result in outcome.tenants:
        console.print(_talk(result))
    console.print(_likelihoods(outcome.tenants))
    console.print(_speed(outcome))
    console.print(_bars("Checks", outcome.checks))
    if outcome.times:
        console.print(_bars("Time", outcome.times))


def print_instructions(base_url: str, tenant: Tenant, console: Console) -> None:
    """Print how to call what was left running."""
    lines = _INSTRUCTIONS.replace("URL", base_url)
    lines = lines.replace("KEY", tenant.api_key).replace("ADAPTER", tenant.adapter)
    console.print(lines, highlight=False, soft_wrap=True, markup=False)


def _talk(result: TenantResult) -> Table:
    table = Table(
        title=f"{result.tenant} · {result.subject}", title_justify="left", show_header=False
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in (
        ("opening", result.talk.opening),
        ("base goes on", result.talk.base_continuation),
        (f"{result.adapter} goes on", result.talk.own_continuation),
        (f"chat with {result.adapter}", result.talk.reply),
    ):
        table.add_row(name, escape(text.replace("\n", " ⏎ ")[:_SHOWN_CHARACTERS]))
    return table


def _likelihoods(results: Sequence[TenantResult]) -> Table:
    table = Table(
        title="Log-likelihood of held-out text, nats per token (higher is better)",
        title_justify="left",
    )
    for heading in ("text of", "base", "own adapter", "the other's", "adapter trained with"):
        table.add_column(
            heading, justify="left" if heading.startswith(("text", "adapter")) else "right"
        )
    for result in results:
        likelihood = result.talk.likelihood
        table.add_row(
            f"{result.tenant} ({likelihood.tokens} tokens)",
            f"{likelihood.base:.3f}",
            f"[bold]{likelihood.own:.3f}[/bold]",
            f"{likelihood.other:.3f}",
            _training(result),
        )
    return table


def _training(result: TenantResult) -> str:
    if not result.privacy:
        return f"LoRA, {result.training.steps} steps"
    return (
        f"LoRA and DP-SGD, {result.training.steps} steps,"
        f" ε = {result.privacy.claimed_epsilon:.2f} at δ = {result.privacy.delta:g}"
    )


def _speed(outcome: Outcome) -> Table:
    table = Table(title="Time to the first token, and throughput", title_justify="left")
    table.add_column("")
    for heading in ("adapter not loaded yet", "adapter loaded", "tokens/s"):
        table.add_column(heading, justify="right")
    for result in outcome.tenants:
        talk = result.talk
        table.add_row(
            result.tenant, f"{talk.cold_ttft_ms:.0f} ms", f"{talk.warm_ttft_ms:.0f} ms", ""
        )
    streams = outcome.throughput.streams
    tokens_per_s = f"{outcome.throughput.tokens_per_s:.0f}"
    table.add_row(f"both at once, {streams} streams", "", "", tokens_per_s)
    return table


def _bars(title: str, bars: Sequence[Bar]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("what")
    table.add_column("found", overflow="fold")
    table.add_column("expected")
    for bar in bars:
        mark = "[green]✓[/green]" if bar.holds else "[red]✗[/red]"
        table.add_row(mark, bar.name, escape(str(bar.value)), bar.limit)
    return table
