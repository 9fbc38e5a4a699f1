"""Replicas compute what one model computes, and the model is what learns."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from training.replicas import Replicas


class Model(nn.Module):
    """Predicts the next of eight tokens from one, like a language model of a single matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.logits = nn.Embedding(8, 8)

    def forward(self, *, input_ids: Tensor, labels: Tensor) -> SimpleNamespace:
        logits = self.logits(input_ids[:, :-1]).flatten(0, 1)
        return SimpleNamespace(loss=nn.functional.cross_entropy(logits, labels[:, 1:].flatten()))


BATCH = torch.arange(5 * 6).reshape(5, 6) % 7


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_gradients_and_loss_are_those_of_the_whole_batch(count: int) -> None:
    alone = Model()
    expected = alone(input_ids=BATCH, labels=BATCH).loss
    expected.backward()
    model = Model()
    with Replicas(model, count=count, precision=torch.float32) as replicas:
        loss = replicas.accumulate(BATCH)
    assert loss == pytest.approx(expected.item())
    torch.testing.assert_close(model.logits.weight.grad, alone.logits.weight.grad)


def test_a_step_changes_the_weights_of_every_replica_and_leaves_no_gradient() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with Replicas(model, count=2, precision=torch.float32) as replicas:
        losses = []
        for _ in range(20):
            losses.append(replicas.accumulate(BATCH))
            replicas.step([optimizer])
            assert model.logits.weight.grad is None
    assert losses[-1] < losses[0] / 2
    assert model(input_ids=BATCH, labels=BATCH).loss.item() < losses[0] / 2


def test_an_error_in_a_replica_is_raised() -> None:
    with (
        Replicas(Model(), count=2, precision=torch.float32) as replicas,
        pytest.raises(IndexError),
    ):
        replicas.accumulate(torch.full((4, 6), 99))
