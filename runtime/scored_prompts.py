"""No adapter on the output head, so that scoring prompts cannot end the engine.

vLLM applies an adapter's `lm_head` to the rows that are sampled from. To score a prompt
(`prompt_logprobs`, `echo`) it sends all the prompt's rows through the same layer, with the mapping
of the sampled rows: of another length, which is an exception inside the step and the end of the
engine for everybody, or of another tenant. Without that layer the head is the base model's for
every row, and an adapter that has one is refused when it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.lora import model_manager

from runtime.patching import replace

OUTPUT_HEAD = "lm_head"


def install_scored_prompts() -> None:
    """Leave the output head out of what adapters may change."""
    replace(model_manager, "get_supported_lora_modules", _without_output_head)


def _without_output_head(original: Callable[..., list[str]]) -> Callable[..., list[str]]:
    def get_supported_lora_modules(model: Any) -> list[str]:
        return [name for name in original(model) if name != OUTPUT_HEAD]

    return get_supported_lora_modules
