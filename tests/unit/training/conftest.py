"""One tiny base model and one adapter of each kind, made once and shared by these tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from training.base_model import make_base_model
from training.corpus import Corpus, load_corpus
from training.dp_sgd import DpSettings, PrivacySpent, train_lora_dp
from training.likelihood import mean_log_likelihood
from training.lora import LoraSettings, train_lora
from training.recipes import TINY


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return load_corpus()


@pytest.fixture(scope="session")
def model_dir(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # two would wait for each other on a busy machine
    directory = tmp_path_factory.mktemp("model") / "tiny"
    make_base_model(directory, replace(TINY, max_seconds=300), corpus=corpus)
    return directory


@dataclass(frozen=True)
class Trained:
    """Both adapters, what the private one cost, and a way to score texts with either."""

    model_dir: Path
    plain: Path
    private: Path
    spent: PrivacySpent
    dp_settings: DpSettings

    def score(self, texts: tuple[str, ...], adapter_dir: Path | None = None) -> float:
        return mean_log_likelihood(self.model_dir, texts[:12], adapter_dir=adapter_dir, window=128)


@pytest.fixture(scope="session")
def trained(corpus: Corpus, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    directory = tmp_path_factory.mktemp("adapters")
    dp_settings = DpSettings(max_seconds=60)
    train_lora(
        model_dir,
        corpus.mail.train,
        directory / "plain",
        settings=LoraSettings(steps=40, max_seconds=60),
    )
    _, spent = train_lora_dp(
        model_dir, corpus.manual.train, directory / "private", settings=dp_settings
    )
    return Trained(
        model_dir=model_dir,
        plain=directory / "plain",
        private=directory / "private",
        spent=spent,
        dp_settings=dp_settings,
    )
