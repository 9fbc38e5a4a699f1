"""What the demo found out, as rows and bars of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from adapter_store.tssp.privacy import DpSgdPrivacy
from deploy.demo.conversation import Talk, Throughput
from deploy.demo.messages import AdapterReady
from deploy.report import Bar, Report

_MIN_GAIN: Final = 0.03  # nats per token; an adapter that does nothing gains 0
_MAX_EPSILON: Final = 10.0
_LATER_RUN_S: Final = 75.0
_FIRST_RUN_S: Final = 210.0  # six minutes less 150 s for the installation


@dataclass(frozen=True)
class TenantResult:
    """One tenant: how its adapter was trained, and how it talked."""

    tenant: str
    adapter: str
    subject: str
    training: AdapterReady
    talk: Talk

    @property
    def privacy(self) -> DpSgdPrivacy | None:
        """What training cost in privacy, or None where none was promised."""
        statement = self.training.privacy
        return statement if isinstance(statement, DpSgdPrivacy) else None

    def row(self) -> Mapping[str, Any]:
        """The tenant's row of the report; likelihoods in nats per token."""
        talk, privacy = self.talk, self.privacy
        return {
            "tenant": self.tenant,
            "adapter": self.adapter,
            "text": self.subject,
            "training": "LoRA with DP-SGD" if privacy else "LoRA",
            "epsilon": privacy.claimed_epsilon if privacy else None,
            "delta": privacy.delta if privacy else None,
            "training_steps": self.training.steps,
            "training_s": round(self.training.seconds, 2),
            "held_out_tokens": talk.likelihood.tokens,
            "log_likelihood_base": round(talk.likelihood.base, 4),
            "log_likelihood_own": round(talk.likelihood.own, 4),
            "log_likelihood_other": round(talk.likelihood.other, 4),
            "ttft_cold_ms": round(talk.cold_ttft_ms, 1),
            "ttft_warm_ms": round(talk.warm_ttft_ms, 1),
        }

    def bars(self) -> list[Bar]:
        """Whether the adapter does what it is for, and its privacy is worth the name."""
        likelihood = self.talk.likelihood
        bars = [
            _gain(f"{self.tenant}: own adapter over the base", likelihood.own - likelihood.base),
            _gain(
                f"{self.tenant}: own adapter over the other's", likelihood.own - likelihood.other
            ),
        ]
        if self.privacy:
            epsilon = self.privacy.claimed_epsilon
            value = f"ε = {epsilon:.2f} at δ = {self.privacy.delta:g}"
            holds = 0 < epsilon < _MAX_EPSILON
            bars.append(Bar(f"{self.tenant}: DP-SGD", value, f"ε < {_MAX_EPSILON:g}", holds))
        return bars


def _gain(name: str, gain: float) -> Bar:
    return Bar(name, f"{gain:+.3f} nats per token", f"≥ +{_MIN_GAIN}", gain >= _MIN_GAIN)


@dataclass
class Outcome:
    """Everything that one run found out."""

    tenants: list[TenantResult]
    throughput: Throughput
    checks: list[Bar]
    times: list[Bar] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every check holds. Times are reported: they are the machine's as much as ours."""
        return all(bar.holds for bar in self.checks)

    def add_time(self, seconds: float, *, made_model: bool) -> None:
        """Set the whole run's time against its bar."""
        name, limit = ("first run", _FIRST_RUN_S) if made_model else ("later run", _LATER_RUN_S)
        bar = Bar(f"{name}, in all", f"{seconds:.1f} s", f"≤ {limit:g} s", seconds <= limit)
        self.times.append(bar)

    def report(self) -> Report:
        """The run as a report."""
        throughput = {
            "tenant": "both at once",
            "streams": self.throughput.streams,
            "tokens": self.throughput.tokens,
            "tokens_per_s": round(self.throughput.tokens_per_s, 1),
        }
        rows = [*(result.row() for result in self.tenants), throughput]
        return Report(rows=rows, bars=[*self.checks, *self.times])
