"""Data-parallel training in one process: each core computes the gradient of a part of the batch.

PyTorch's own threads share every single operation, and each waits for the last of them: on a
machine with anything else to do, two threads can be ten times slower than one. Here every core has
a model of its own over shared weights, and they meet once a step.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn


class Replicas:
    """A model and copies of it that share its weights; open it with `with`."""

    def __init__(self, model: nn.Module, *, count: int, precision: torch.dtype) -> None:
        self._models = [model, *(_sharing_weights(model) for _ in range(count - 1))]
        self._precision = precision
        self._threads = ThreadPoolExecutor(
            max_workers=count, initializer=torch.set_num_threads, initargs=(1,)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.shutdown()

    def accumulate(self, batch: Tensor) -> float:
        """Set the model's gradients to those of the batch's mean loss, which is returned."""
        parts = batch.chunk(len(self._models))
        used = self._models[: len(parts)]
        shares = [len(part) / len(batch) for part in parts]
        losses = self._threads.map(self._backward, used, parts, shares)
        total = sum(losses)
        for parameter, *copies in zip(*(m.parameters() for m in used), strict=True):
            for other in copies:
                parameter.grad += other.grad
                other.grad = None
        return total

    def step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Let each optimizer, over weights of its own, make its step and forget its gradients."""
        list(self._threads.map(_step, optimizers))

    def _backward(self, model: nn.Module, part: Tensor, share: float) -> float:
        with torch.autocast("cpu", self._precision, enabled=self._precision != torch.float32):
            loss = model(input_ids=part, labels=part).loss * share
        loss.backward()
        return float(loss.item())


def _sharing_weights(model: nn.Module) -> nn.Module:
    """A copy with gradients of its own over the same weights."""
    twin = copy.deepcopy(model)
    for parameter, original in zip(twin.parameters(), model.parameters(), strict=True):
        parameter.data = original.data
    return twin


def _step(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
