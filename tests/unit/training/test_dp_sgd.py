"""DP-SGD still helps on its own text, and its stated (ε, δ) is what other accountants find."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from safetensors.torch import load_file

from tests.unit.training.conftest import Trained
from training.corpus import Corpus
from training.dp_sgd import DpSettings, PrivacySpent, train_lora_dp
from training.progress import Progress


def _epsilon(accountant: RdpAccountant | PLDAccountant, spent: PrivacySpent) -> float:
    """ε by another implementation, from the statement's events alone."""
    (composed,) = spent.statement(dataset="text").events
    accountant.compose(
        SelfComposedDpEvent(
            PoissonSampledDpEvent(
                composed.event.sampling_probability,
                GaussianDpEvent(composed.event.event.noise_multiplier),
            ),
            composed.count,
        )
    )
    return float(accountant.get_epsilon(spent.delta))


def test_it_beats_the_base_on_its_own_held_out_text(trained: Trained, corpus: Corpus) -> None:
    texts = corpus.manual.held_out
    assert trained.score(texts, trained.private) > trained.score(texts) + 0.03


def test_it_does_worse_than_the_owners_adapter_on_the_other_text(
    trained: Trained, corpus: Corpus
) -> None:
    texts = corpus.mail.held_out
    assert trained.score(texts, trained.private) < trained.score(texts, trained.plain)


def test_its_epsilon_is_one_that_means_something(trained: Trained, corpus: Corpus) -> None:
    assert 0.5 < trained.spent.epsilon < 8
    assert trained.spent.delta < 1 / len(corpus.manual.train)


def test_the_stated_epsilon_is_what_dp_accounting_finds(trained: Trained) -> None:
    rdp = _epsilon(RdpAccountant(), trained.spent)
    tight = _epsilon(PLDAccountant(), trained.spent)
    assert trained.spent.epsilon == pytest.approx(rdp, rel=0.02)
    assert tight <= trained.spent.epsilon <= 1.4 * tight


def test_a_statement_with_less_noise_or_more_steps_would_not_agree(trained: Trained) -> None:
    honest = trained.spent
    for other in (
        dataclasses.replace(honest, steps=2 * honest.steps),
        dataclasses.replace(honest, noise_multiplier=honest.noise_multiplier * 0.8),
        dataclasses.replace(honest, sampling_probability=honest.sampling_probability * 1.5),
    ):
        assert _epsilon(RdpAccountant(), other) > 1.1 * honest.epsilon


def test_what_is_stated_is_what_was_done(trained: Trained, corpus: Corpus) -> None:
    spent, settings = trained.spent, trained.dp_settings
    assert spent.steps == settings.steps
    assert spent.noise_multiplier == settings.noise_multiplier
    expected = settings.expected_batch / len(corpus.manual.train)
    assert spent.sampling_probability == pytest.approx(expected, rel=0.02)
    statement = spent.statement(dataset="text")
    assert (statement.sampling, statement.unit) == ("poisson", "example")
    assert statement.claimed_epsilon == spent.epsilon


def test_a_run_cut_short_states_only_the_steps_it_made(
    model_dir: Path, corpus: Corpus, tmp_path: Path
) -> None:
    report, spent = train_lora_dp(
        model_dir,
        corpus.manual.train,
        tmp_path / "adapter",
        settings=DpSettings(steps=50, max_seconds=0),
    )
    assert report.steps == spent.steps == 1


def test_batches_are_drawn_by_coins_and_noise_is_added_even_to_empty_ones(
    model_dir: Path, corpus: Corpus, tmp_path: Path
) -> None:
    losses: list[float | None] = []

    def remember(progress: Progress) -> None:
        losses.append(progress.loss)

    settings = DpSettings(steps=12, expected_batch=1)
    train_lora_dp(
        model_dir,
        corpus.manual.train[:8],
        tmp_path / "adapter",
        settings=settings,
        on_progress=remember,
    )
    assert 0.0 in losses  # a batch without any example: (7/8)^8 of all batches, a third
    learnt = {
        name: tensor
        for name, tensor in load_file(tmp_path / "adapter" / "adapter_model.safetensors").items()
        if "lora_B" in name
    }
    assert all(torch.count_nonzero(tensor) == tensor.numel() for tensor in learnt.values())


def test_two_runs_draw_different_noise(model_dir: Path, corpus: Corpus, tmp_path: Path) -> None:
    settings = DpSettings(steps=1, expected_batch=2)
    for name in ("one", "two"):
        train_lora_dp(model_dir, corpus.manual.train[:8], tmp_path / name, settings=settings)
    one, two = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("one", "two"))
    assert all(torch.equal(one[n], two[n]) for n in one if "lora_A" in n)
    assert not any(torch.equal(one[n], two[n]) for n in one if "lora_B" in n)
