"""Train a PEFT LoRA adapter with DP-SGD and say what privacy was spent.

The guarantee protects one *example* (a record of a tenant's text): adding or removing it changes
the probability of any adapter by at most e^ε, but for δ. It comes from Poisson sampling, clipping
of every example's gradient and Gaussian noise (Abadi et al., arXiv:1607.00133) as opacus does them,
and is counted over the steps that were really made. The noise comes from PyTorch's generator,
seeded by the operating system; it is not a cryptographic one.

The random LoRA matrices A stay as drawn and only B is learnt (FFA-LoRA, arXiv:2403.12313): half as
many coordinates to drown in noise, and the noise of A and of B cannot multiply.
"""

from __future__ import annotations

import importlib.metadata
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from opacus import PrivacyEngine
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from adapter_store.tssp.privacy import (
    DpSgdPrivacy,
    GaussianDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from training.lora import (
    IGNORED,
    TrainingReport,
    add_adapter,
    as_inputs,
    open_model,
    save_adapter,
    token_rows,
)
from training.progress import OnProgress, Progress, ignore_progress


@dataclass(frozen=True)
class DpSettings:
    """How an adapter is trained privately. `max_seconds` ends the run early, at a smaller ε."""

    rank: int = 8
    alpha: int = 32
    steps: int = 32
    expected_batch: int = 32  # examples in one step on average; each is drawn by its own coin
    window: int = 56  # tokens; what is longer is cut
    learning_rate: float = 0.06
    momentum: float = 0.9
    noise_multiplier: float = 0.7  # standard deviation of the noise / clipping norm
    clipping_norm: float = 1.0
    delta: float = 1e-5
    max_seconds: float = 20
    seed: int = 7  # of the initial adapter only: sampling and noise are never repeatable


@dataclass(frozen=True)
class PrivacySpent:
    """The (ε, δ) of one training run and the mechanism that it is the cost of."""

    epsilon: float
    delta: float
    sampling_probability: float
    noise_multiplier: float
    steps: int

    def statement(self, *, dataset: str) -> DpSgdPrivacy:
        """What a package's manifest says: the events, so that anybody can account for them."""
        step = PoissonSampledDpEvent(
            sampling_probability=self.sampling_probability,
            event=GaussianDpEvent(noise_multiplier=self.noise_multiplier),
        )
        return DpSgdPrivacy(
            dataset=dataset,
            unit="example",
            sampling="poisson",
            events=(SelfComposedDpEvent(event=step, count=self.steps),),
            delta=self.delta,
            claimed_epsilon=self.epsilon,
            accountant="opacus-rdp",
            library_versions={
                name: importlib.metadata.version(name) for name in ("opacus", "peft", "torch")
            },
        )


def train_lora_dp(
    model_dir: Path,
    records: Sequence[str],
    adapter_dir: Path,
    *,
    settings: DpSettings,
    on_progress: OnProgress = ignore_progress,
) -> tuple[TrainingReport, PrivacySpent]:
    """Train an adapter on `records` with DP-SGD, save it to `adapter_dir`, and count the cost.

    Raises `TrainingError` when there are no records or the model has none of the target modules.
    """
    # 1. The initial adapter: A random, B zero and alone trainable.
    torch.manual_seed(settings.seed)
    model, tokenizer = open_model(model_dir)
    rows = token_rows(tokenizer, records, settings.window)
    adapted = add_adapter(model, rank=settings.rank, alpha=settings.alpha)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad = "lora_B" in name
    adapted.train()
    torch.seed()  # nobody may predict the sampling or the noise

    # 2. Steps until they are made or the time is up.
    started = time.monotonic()
    losses: list[float] = []
    with _opacus_warnings_silenced():
        engine = PrivacyEngine(accountant="rdp")
        private = _make_private(engine, adapted, rows, settings)
        for batch in _poisson_batches(private.loader, rows, settings.steps):
            losses.append(_step(private, batch, placeholder=rows[0]))
            on_progress(Progress("training privately", len(losses), settings.steps, losses[-1]))
            if time.monotonic() - started >= settings.max_seconds:
                break

    # 3. What was spent is what the accountant saw, not what was asked for.
    (noise_multiplier, sampling_probability, steps) = engine.accountant.history[0]
    spent = PrivacySpent(
        epsilon=float(engine.accountant.get_epsilon(settings.delta)),
        delta=settings.delta,
        sampling_probability=sampling_probability,
        noise_multiplier=noise_multiplier,
        steps=steps,
    )
    save_adapter(adapted, adapter_dir)
    seconds = time.monotonic() - started
    return TrainingReport.of(losses, records=len(rows), seconds=seconds), spent


@dataclass(frozen=True)
class _Private:
    """opacus' wrappers: per-example gradients, clipping with noise, Poisson sampling."""

    model: Any
    optimizer: Any
    loader: Any


def _make_private(
    engine: PrivacyEngine, adapted: torch.nn.Module, rows: Sequence[Tensor], settings: DpSettings
) -> _Private:
    trainable = [p for p in adapted.parameters() if p.requires_grad]
    model, optimizer, loader = engine.make_private(
        module=adapted,
        optimizer=torch.optim.SGD(trainable, lr=settings.learning_rate, momentum=settings.momentum),
        data_loader=DataLoader(
            TensorDataset(torch.arange(len(rows))), batch_size=settings.expected_batch
        ),
        noise_multiplier=settings.noise_multiplier,
        max_grad_norm=settings.clipping_norm,
        poisson_sampling=True,
        grad_sample_mode="hooks",
    )
    return _Private(model=model, optimizer=optimizer, loader=loader)


def _poisson_batches(loader: Any, rows: Sequence[Tensor], steps: int) -> Iterator[list[Tensor]]:
    made = 0
    while made < steps:
        for (indices,) in loader:
            yield [rows[index] for index in indices.tolist()]
            made += 1
            if made >= steps:
                return


def _step(private: _Private, batch: Sequence[Tensor], *, placeholder: Tensor) -> float:
    """One step of DP-SGD; an empty batch is a step of noise alone, as the accounting says."""
    inputs = as_inputs(batch or [placeholder])
    labels = inputs.pop("labels")
    logits = private.model(**inputs, use_cache=False).logits[:, :-1]
    targets = labels[:, 1:]
    per_token = cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    ).view(targets.shape)
    per_example = per_token.sum(1) / (targets != IGNORED).sum(1)
    loss: Tensor = per_example.mean() * bool(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    private.optimizer.step()
    private.optimizer.zero_grad(set_to_none=True)
    return loss.item()


@contextmanager
def _opacus_warnings_silenced() -> Iterator[None]:
    """Hide what opacus always says: about its generator, and hooks on a frozen embedding."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Secure RNG turned off")
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield
