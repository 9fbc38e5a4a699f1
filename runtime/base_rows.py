"""Rows without an adapter in vLLM's CPU kernels: made to get none, where they would get the last.

vLLM marks the rows of the base model with the slot -1. Its GPU kernels skip them; the ones in
plain torch index with it, and -1 is the last slot: a request to the base model that shares a
batch with adapters would be answered with whichever tenant's adapter is in that slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu

from runtime.patching import replace

KERNELS = ("bgmv_expand", "bgmv_expand_slice")
"""Every way of an adapter into the output ends in one of these two."""


def install_base_rows() -> None:
    """Replace the kernels, in the module that has them and in the one that imported them."""
    for module in (lora_ops, punica_cpu):
        for name in KERNELS:
            replace(module, name, _without_base_rows)


def _without_base_rows(original: Callable[..., None]) -> Callable[..., None]:
    def expand(
        inputs: torch.Tensor,
        lora_b_weights: torch.Tensor,
        output_tensor: torch.Tensor,
        lora_indices_tensor: torch.Tensor,
        *more: Any,
        **named: Any,
    ) -> None:
        base_rows = (lora_indices_tensor < 0).unsqueeze(1)
        adapter_rows = inputs.masked_fill(base_rows, 0)
        original(adapter_rows, lora_b_weights, output_tensor, lora_indices_tensor, *more, **named)

    return expand
