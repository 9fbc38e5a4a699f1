"""The state machine of adapters, move by move."""

from __future__ import annotations

from itertools import product

import pytest

from gateway.adapters.lifecycle import ENDED, AdapterState, Move, after
from gateway.errors import LifecycleError

S, M = AdapterState, Move
ALLOWED = {
    (S.UPLOADED, M.ACTIVATE): S.ACTIVE,
    (S.UPLOADED, M.REJECT): S.REJECTED,
    (S.UPLOADED, M.REVOKE): S.REVOKED,
    (S.UPLOADED, M.DELETE): S.SHREDDED,
    (S.ACTIVE, M.ACTIVATE): S.ACTIVE,
    (S.ACTIVE, M.RETIRE): S.RETIRED,
    (S.ACTIVE, M.REVOKE): S.REVOKED,
    (S.ACTIVE, M.DELETE): S.SHREDDED,
    (S.RETIRED, M.ACTIVATE): S.ACTIVE,
    (S.RETIRED, M.RETIRE): S.RETIRED,
    (S.RETIRED, M.REVOKE): S.REVOKED,
    (S.RETIRED, M.DELETE): S.SHREDDED,
    (S.REJECTED, M.REJECT): S.REJECTED,
    (S.REJECTED, M.DELETE): S.SHREDDED,
    (S.REVOKED, M.REVOKE): S.REVOKED,
    (S.REVOKED, M.DELETE): S.SHREDDED,
    (S.SHREDDED, M.DELETE): S.SHREDDED,
}


@pytest.mark.parametrize(("state", "move"), list(product(S, M)))
def test_only_the_listed_moves_are_allowed(state: AdapterState, move: Move) -> None:
    if (state, move) in ALLOWED:
        assert after(state, move) is ALLOWED[state, move]
    else:
        with pytest.raises(LifecycleError, match=f"cannot {move} an adapter that is {state}"):
            after(state, move)


@pytest.mark.parametrize("move", list(M))
def test_every_move_can_be_repeated(move: Move) -> None:
    for (_, made), state in ALLOWED.items():
        if made is move:
            assert after(state, move) is state


def test_what_was_revoked_or_has_ended_is_never_served_again() -> None:
    reachable = {S.REVOKED, *ENDED}
    for _ in S:
        reachable |= {ALLOWED[state, move] for state, move in ALLOWED if state in reachable}
    assert S.ACTIVE not in reachable
