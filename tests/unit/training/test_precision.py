"""The faster number format is chosen by measurement."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from training.precision import fastest_dtype


def _clock(*ticks: float) -> Iterator[float]:
    return iter(ticks)


@pytest.mark.parametrize(
    ("float32_s", "bfloat16_s", "expected"),
    [(2.0, 1.0, torch.bfloat16), (1.0, 2.0, torch.float32), (1.0, 1.0, torch.float32)],
)
def test_the_faster_one_wins_and_a_tie_is_float32(
    float32_s: float, bfloat16_s: float, expected: torch.dtype
) -> None:
    ticks = _clock(0.0, float32_s, 10.0, 10.0 + bfloat16_s)
    assert fastest_dtype(lambda: next(ticks)) is expected
