"""JSON that other programs wrote: any layout, but no repeated members, NaN or endless depth."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

from adapter_store.errors import FormatError, shown


def parse_object(data: bytes, *, what: str, error: type[FormatError]) -> dict[str, Any]:
    """Return the JSON object in `data`, or raise `error`. The caller has bounded its length."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise error(f"{what} repeats the member {shown(repeated)}")
        return members

    def refuse_constant(name: str) -> NoReturn:
        raise error(f"{what} contains {name}, which is not JSON")

    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as invalid:  # ValueError covers bad UTF-8 and long numbers
        raise error(f"{what} is not JSON: {shown(str(invalid))}") from None
    if not isinstance(value, dict):
        raise error(what, expected="a JSON object", found=type(value).__name__)
    return value
