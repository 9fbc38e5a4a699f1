"""Replacing one function of a class or module: wrapped, once, and visibly so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

MARK = "__tensafe_replacement__"

Replacement = Callable[..., Any]


def replace(
    owner: type | ModuleType, name: str, make: Callable[[Replacement], Replacement]
) -> None:
    """Set `owner.name` to `make(original)`; a second call in the same process changes nothing.

    The engine may load its plugins more than once, and its children inherit what their parent
    replaced before it forked.
    """
    original = getattr(owner, name)
    if hasattr(original, MARK):
        return
    replacement = functools.wraps(original)(make(original))
    setattr(replacement, MARK, True)
    setattr(owner, name, replacement)
