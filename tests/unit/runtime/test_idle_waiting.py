"""Readers of vLLM's shared memory: when they spin, when they nap, when they wait to be told."""

from __future__ import annotations

import pytest

from runtime import idle_waiting
from runtime.idle_waiting import SpinCondition, install_idle_waiting


class ToldError(Exception):
    """vLLM's own wait was reached."""


@pytest.fixture
def condition(monkeypatch: pytest.MonkeyPatch) -> SpinCondition:
    """A reader whose own waiting is seen, and whose naps are counted."""

    def own_wait(condition: SpinCondition, timeout_ms: int | None = None) -> None:
        raise ToldError

    monkeypatch.setattr(SpinCondition, "wait", own_wait)
    install_idle_waiting()
    condition = SpinCondition.__new__(SpinCondition)
    condition.busy_loop_s = 1.0
    return condition


def naps(condition: SpinCondition, monkeypatch: pytest.MonkeyPatch, idle_s: float) -> bool:
    """Return whether a reader that read `idle_s` ago naps instead of doing what vLLM does."""
    napped: list[float] = []
    now = 1000.0
    condition.last_read = now - idle_s
    monkeypatch.setattr(idle_waiting.time, "monotonic", lambda: now)
    monkeypatch.setattr(idle_waiting.time, "sleep", napped.append)
    try:
        condition.wait()
    except ToldError:
        return False
    assert napped == [idle_waiting.NAP_S]
    return True


@pytest.mark.parametrize(
    ("idle_s", "expected"), [(0.0, False), (0.0001, False), (0.01, True), (0.9, True), (1.5, False)]
)
def test_a_reader_naps_between_its_spin_and_the_end_of_vllms_own_second(
    condition: SpinCondition, monkeypatch: pytest.MonkeyPatch, idle_s: float, expected: bool
) -> None:
    assert naps(condition, monkeypatch, idle_s) is expected
