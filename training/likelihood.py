"""How well a model predicts a text: the measure that every adapter is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel

from training.lora import as_inputs, open_model, token_rows


def mean_log_likelihood(
    model_dir: Path, texts: Sequence[str], *, adapter_dir: Path | None = None, window: int = 256
) -> float:
    """Mean log-likelihood per token, in nats, of `texts` under the model or the adapted model."""
    model, tokenizer = open_model(model_dir)
    if adapter_dir is not None:
        model = PeftModel.from_pretrained(model, adapter_dir)
    model.eval()
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for row in token_rows(tokenizer, texts, window):
            scored = len(row) - 1
            total -= model(**as_inputs([row])).loss.item() * scored
            tokens += scored
    return total / tokens
