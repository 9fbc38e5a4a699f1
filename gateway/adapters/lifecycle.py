"""The states of an adapter and the moves between them; pure."""

from __future__ import annotations

from enum import StrEnum

from gateway.errors import LifecycleError


class AdapterState(StrEnum):
    """Where an adapter is in its life."""

    UPLOADED = "uploaded"  # verified and stored; the weights have not been looked at
    ACTIVE = "active"  # may be served
    RETIRED = "retired"  # taken out of service, may come back
    REJECTED = "rejected"  # the pool refused the weights; final
    REVOKED = "revoked"  # withdrawn for cause; never comes back
    SHREDDED = "shredded"  # its data key is destroyed; final


ENDED = frozenset({AdapterState.REJECTED, AdapterState.SHREDDED})
"""States whose objects are deleted; the row stays, so that the digest is never used again."""


class Move(StrEnum):
    """What can be done to an adapter."""

    ACTIVATE = "activate"
    REJECT = "reject"
    RETIRE = "retire"
    REVOKE = "revoke"
    DELETE = "delete"


_S = AdapterState
_MOVES: dict[Move, tuple[frozenset[AdapterState], AdapterState]] = {
    Move.ACTIVATE: (frozenset({_S.UPLOADED, _S.ACTIVE, _S.RETIRED}), _S.ACTIVE),
    Move.REJECT: (frozenset({_S.UPLOADED, _S.REJECTED}), _S.REJECTED),
    Move.RETIRE: (frozenset({_S.ACTIVE, _S.RETIRED}), _S.RETIRED),
    Move.REVOKE: (frozenset({_S.UPLOADED, _S.ACTIVE, _S.RETIRED, _S.REVOKED}), _S.REVOKED),
    Move.DELETE: (frozenset(_S), _S.SHREDDED),
}


def after(state: AdapterState, move: Move) -> AdapterState:
    """Return the state that `move` leads to; raises LifecycleError if it is not allowed.

    Repeating a move is always allowed and leads to where it led.
    """
    allowed, target = _MOVES[move]
    if state not in allowed:
        raise LifecycleError(f"cannot {move} an adapter that is {state}")
    return target
