"""An adapter helps on its own tenant's text, not on the other's, and is a plain PEFT folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.unit.training.conftest import Trained
from training.corpus import Corpus
from training.lora import TARGET_MODULES, LoraSettings, TrainingError, train_lora


def test_it_beats_the_base_on_its_own_held_out_text(trained: Trained, corpus: Corpus) -> None:
    texts = corpus.mail.held_out
    assert trained.score(texts, trained.plain) > trained.score(texts) + 0.1


def test_it_does_worse_than_the_owners_adapter_on_the_other_text(
    trained: Trained, corpus: Corpus
) -> None:
    texts = corpus.manual.held_out
    assert trained.score(texts, trained.plain) < trained.score(texts, trained.private)


def test_an_untrained_adapter_does_not_beat_the_base(
    trained: Trained, corpus: Corpus, tmp_path: Path
) -> None:
    settings = LoraSettings(steps=1, learning_rate=0.0)
    train_lora(trained.model_dir, corpus.mail.train, tmp_path / "untrained", settings=settings)
    texts = corpus.mail.held_out
    assert trained.score(texts, tmp_path / "untrained") == pytest.approx(trained.score(texts))


def test_the_folder_holds_two_files_and_no_path_of_this_machine(trained: Trained) -> None:
    assert sorted(path.name for path in trained.plain.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((trained.plain / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == set(TARGET_MODULES)
    assert not config["base_model_name_or_path"]
    with safe_open(trained.plain / "adapter_model.safetensors", "pt") as tensors:
        dtypes = {tensors.get_slice(name).get_dtype() for name in tensors.offset_keys()}
    assert dtypes == {"F32"}


@pytest.mark.parametrize("records", [(), ("", "")], ids=["none", "empty"])
def test_no_text_is_refused(model_dir: Path, records: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="expected"):
        train_lora(model_dir, records, tmp_path / "adapter", settings=LoraSettings(steps=1))
    assert not (tmp_path / "adapter").exists()
