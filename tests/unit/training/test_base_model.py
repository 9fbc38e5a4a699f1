"""The base model is an ordinary folder that has learnt something, whole or not there at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

from training import base_model
from training.base_model import cached_base_model, make_base_model
from training.corpus import Corpus
from training.likelihood import mean_log_likelihood
from training.progress import Progress
from training.recipes import TINY, model_cache

SHORT = dataclasses.replace(TINY, steps=2)


def test_the_folder_holds_fp32_safetensors_a_tokenizer_and_a_chat_template(
    model_dir: Path,
) -> None:
    with safe_open(model_dir / "model.safetensors", "pt") as tensors:
        dtypes = {tensors.get_slice(name).get_dtype() for name in tensors.offset_keys()}
    assert dtypes == {"F32"}
    assert json.loads((model_dir / "config.json").read_text())["architectures"] == [
        "LlamaForCausalLM"
    ]
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    chat = [{"role": "user", "content": "def f():"}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|begin|><|user|>def f():<|end|><|assistant|>"


def test_the_tokenizer_gives_every_text_back(model_dir: Path, corpus: Corpus) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    for text in (*corpus.mail.held_out[:5], *corpus.manual.held_out[:5], "ünïcödé 漢字 \t\n\n  x"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_it_predicts_better_than_one_that_was_not_trained(
    model_dir: Path, corpus: Corpus, tmp_path: Path
) -> None:
    untrained = tmp_path / "untrained"
    make_base_model(untrained, dataclasses.replace(TINY, steps=1), corpus=corpus)
    texts = corpus.mail.held_out[:8]
    gained = mean_log_likelihood(model_dir, texts) - mean_log_likelihood(untrained, texts)
    assert gained > 1.0  # nats per token


def test_a_second_call_finds_the_first_ones_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    made = cached_base_model(SHORT, environ=environ)
    assert made.parent == model_cache(environ)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(base_model, "make_base_model", never)
    assert cached_base_model(SHORT, environ=environ) == made
    with pytest.raises(AssertionError, match="trained again"):  # another recipe, another model
        cached_base_model(dataclasses.replace(SHORT, seed=21), environ=environ)


def test_an_interrupted_training_leaves_nothing(corpus: Corpus, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_base_model(tmp_path / "model", SHORT, corpus=corpus, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_another_process_finished_first_stays(corpus: Corpus, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "theirs").touch()
    make_base_model(directory, SHORT, corpus=corpus)
    assert [path.name for path in directory.iterdir()] == ["theirs"]
    assert list(tmp_path.iterdir()) == [directory]
