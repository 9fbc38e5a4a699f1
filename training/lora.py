"""Train a PEFT LoRA adapter on a tenant's text.

The result is a plain PEFT folder, `adapter_config.json` and `adapter_model.safetensors` and nothing
else: exactly what a package holds. The folder is plaintext, so whoever calls this chooses a place
for it that does not outlive packing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from training.precision import fastest_dtype
from training.progress import OnProgress, Progress, ignore_progress

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IGNORED = -100  # transformers' label of a position that takes no part in the loss


class TrainingError(Exception):
    """The model or the text cannot be trained on."""


@dataclass(frozen=True)
class LoraSettings:
    """How an adapter is trained. `max_seconds` bounds the time, not only the number of steps."""

    rank: int = 8
    alpha: int = 32
    steps: int = 60
    batch: int = 8  # records in one step
    window: int = 80  # tokens; what is longer is cut
    learning_rate: float = 4e-3
    max_seconds: float = 12
    seed: int = 7


@dataclass(frozen=True)
class TrainingReport:
    """What a training run did."""

    steps: int
    records: int
    first_loss: float  # nats per token
    last_loss: float  # nats per token, mean of the last five steps
    seconds: float

    @classmethod
    def of(cls, losses: Sequence[float], *, records: int, seconds: float) -> TrainingReport:
        """The report of a run with these losses."""
        last = losses[-5:]
        return cls(
            steps=len(losses),
            records=records,
            first_loss=losses[0],
            last_loss=sum(last) / len(last),
            seconds=seconds,
        )


def train_lora(
    model_dir: Path,
    records: Sequence[str],
    adapter_dir: Path,
    *,
    settings: LoraSettings,
    on_progress: OnProgress = ignore_progress,
) -> TrainingReport:
    """Train an adapter for the model in `model_dir` on `records` and save it to `adapter_dir`.

    Raises `TrainingError` when there are no records or the model has none of the target modules.
    """
    torch.manual_seed(settings.seed)
    model, tokenizer = open_model(model_dir)
    rows = token_rows(tokenizer, records, settings.window)
    adapted = add_adapter(model, rank=settings.rank, alpha=settings.alpha)
    trainable = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=0.0)
    precision = fastest_dtype()
    losses: list[float] = []
    done = 0.0
    started = time.monotonic()
    adapted.train()
    for step, batch in enumerate(_batches(rows, settings)):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(done)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = adapted(**as_inputs(batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        done = max((step + 1) / settings.steps, (time.monotonic() - started) / settings.max_seconds)
        on_progress(Progress("training an adapter", step + 1, settings.steps, losses[-1]))
        if done >= 1:
            break
    save_adapter(adapted, adapter_dir)
    return TrainingReport.of(losses, records=len(rows), seconds=time.monotonic() - started)


def open_model(model_dir: Path) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """The base model in fp32 with its tokenizer; local files only."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, local_files_only=True
    )
    return model, tokenizer


def add_adapter(model: torch.nn.Module, *, rank: int, alpha: int) -> PeftModel:
    """Wrap `model` with a fresh LoRA adapter on every attention and MLP projection it has."""
    present = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    targets = [name for name in TARGET_MODULES if name in present]
    if not targets:
        raise TrainingError(f"expected a model with some of {', '.join(TARGET_MODULES)}, got none")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def save_adapter(model: PeftModel, adapter_dir: Path) -> None:
    """Write the adapter as PEFT does, without the model card and without the base model's path."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = ""
    model.save_pretrained(adapter_dir, safe_serialization=True, save_embedding_layers=False)
    (adapter_dir / "README.md").unlink(missing_ok=True)


def token_rows(
    tokenizer: PreTrainedTokenizerBase, records: Sequence[str], window: int
) -> list[Tensor]:
    """One row of at most `window` tokens for each record that has at least two.

    Raises `TrainingError` when none is left.
    """
    if not records:
        raise TrainingError("expected at least one record to train on, got none")
    encoded = tokenizer(list(records), truncation=True, max_length=window)["input_ids"]
    rows = [torch.tensor(ids) for ids in encoded if len(ids) > 1]
    if not rows:
        raise TrainingError("expected records of at least two tokens, got none")
    return rows


def as_inputs(rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """Rows padded to one length, with positions for every row and labels that skip the padding."""
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=IGNORED)
    mask = padded != IGNORED
    positions = torch.arange(padded.shape[1]).expand(padded.shape).contiguous()
    return {
        "input_ids": padded.clamp(min=0),
        "attention_mask": mask.long(),
        "position_ids": positions,
        "labels": padded,
    }


def _batches(rows: Sequence[Tensor], settings: LoraSettings) -> Iterator[list[Tensor]]:
    generator = torch.Generator().manual_seed(settings.seed)
    order: list[int] = []
    for _ in range(settings.steps):
        while len(order) < settings.batch:
            order += torch.randperm(len(rows), generator=generator).tolist()
        yield [rows[index] for index in order[: settings.batch]]
        del order[: settings.batch]


def _schedule(done: float) -> float:
    """Warm up over the first tenth, then fall to a twentieth along a cosine."""
    if done < 0.1:
        return 0.1 + 9 * done
    return 0.05 + 0.475 * (1 + math.cos(math.pi * min(done, 1.0)))
