"""A small Llama trained from nothing in a minute: the demo's and the tests' base model.

The result is an ordinary Hugging Face folder (config, fp32 safetensors, tokenizer with a chat
template) that vLLM, PEFT and transformers load like any other. It is cached under the digest of
its recipe and its text, and appears there whole or not at all.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.corpus import Corpus, load_corpus
from training.precision import fastest_dtype
from training.progress import OnProgress, Progress, ignore_progress
from training.recipes import Recipe, model_directory
from training.replicas import Replicas

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
_CHAT_TEMPLATE = (
    BEGIN + "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}" + END
    + "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)  # fmt: skip


def cached_base_model(
    recipe: Recipe,
    *,
    corpus: Corpus | None = None,
    environ: Mapping[str, str] = os.environ,
    on_progress: OnProgress = ignore_progress,
) -> Path:
    """The folder of `recipe`'s model, made on the first call and found again afterwards."""
    text = corpus or load_corpus()
    directory = model_directory(recipe, text, environ)
    if not directory.is_dir():
        make_base_model(directory, recipe, corpus=text, on_progress=on_progress)
    return directory


def make_base_model(
    directory: Path,
    recipe: Recipe,
    *,
    corpus: Corpus | None = None,
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Train `recipe`'s model and put it at `directory`, which appears whole or not at all.

    When another process finishes the same folder first, theirs stays. Raises `CorpusError` when
    there is no text to train on.
    """
    text = corpus or load_corpus()
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        on_progress(Progress("training the tokenizer", 0, recipe.steps))
        tokenizer = _train_tokenizer(text, recipe)
        model = _train_model(_token_stream(text, tokenizer, recipe), tokenizer, recipe, on_progress)
        model.save_pretrained(scratch, safe_serialization=True)
        tokenizer.save_pretrained(scratch)
        scratch.chmod(0o755)
        _publish(scratch, directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, directory: Path) -> None:
    try:
        scratch.rename(directory)
    except OSError:
        if not directory.is_dir():
            raise


def _train_tokenizer(corpus: Corpus, recipe: Recipe) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # Indentation and names are one token each where they are frequent enough.
            pre_tokenizers.Split(r" *\n *|\s+(?=\s\S)", behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, BEGIN, END, *_ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # A tenth of the text is plenty for a small vocabulary. The tenants' text takes no part.
    tokenizer.train_from_iterator(corpus.base[::10], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(_ROLES),
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = _CHAT_TEMPLATE
    return fast


def _token_stream(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> torch.Tensor:
    """As many tokens as the recipe can use, in one row: records and dialogues, shuffled."""
    generator = torch.Generator().manual_seed(recipe.seed)
    wanted = recipe.steps * recipe.batch * recipe.window
    texts = [record + END for record in corpus.base]
    texts += [
        f"<|user|>{question}{END}<|assistant|>{answer}{END}"
        for question, answer in corpus.dialogues
    ]
    order = torch.randperm(len(texts), generator=generator).tolist()
    tokens: list[int] = []
    for start in range(0, len(order), 256):
        batch = [texts[index] for index in order[start : start + 256]]
        for ids in tokenizer(batch, verbose=False)["input_ids"]:
            tokens.extend(ids)
        if len(tokens) > wanted + recipe.window:
            break
    return torch.tensor(tokens)


def _train_model(
    stream: torch.Tensor,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    on_progress: OnProgress,
) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(_config(recipe, tokenizer))
    model.train()
    cores = len(os.sched_getaffinity(0))
    optimizers = _optimizers(model, recipe, groups=cores)
    done = 0.0
    started = time.monotonic()
    with Replicas(model, count=min(cores, recipe.batch), precision=fastest_dtype()) as replicas:
        for step, batch in enumerate(_batches(stream, recipe)):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * _schedule(done)
            loss = replicas.accumulate(batch)
            replicas.step(optimizers)
            spent = (time.monotonic() - started) / recipe.max_seconds
            done = max((step + 1) / recipe.steps, spent)
            on_progress(Progress("training the base model", step + 1, recipe.steps, loss))
            if done >= 1:
                break
    return model.eval()


def _optimizers(
    model: LlamaForCausalLM, recipe: Recipe, *, groups: int
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, which learns most per token; AdamW for the rest.

    Muon's work is divided into `groups`, one for each core.
    """
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices[first::groups], lr=recipe.learning_rate, weight_decay=0.01)
        for first in range(min(groups, len(matrices)))
    ]
    optimizers.append(torch.optim.AdamW(others, lr=recipe.embedding_rate, betas=(0.9, 0.95)))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def _batches(stream: torch.Tensor, recipe: Recipe) -> Iterator[torch.Tensor]:
    rows = stream[: len(stream) // recipe.window * recipe.window].view(-1, recipe.window)
    for step in range(recipe.steps):
        indices = torch.arange(step * recipe.batch, (step + 1) * recipe.batch) % len(rows)
        yield rows[indices]


def _schedule(done: float) -> float:
    """Warm up over the first 5 %, then fall to a twentieth along a cosine."""
    warm_up = 0.05
    if done < warm_up:
        return 0.1 + 0.9 * done / warm_up
    return 0.05 + 0.475 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))
