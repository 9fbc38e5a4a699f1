"""Names that people give to tenants and keys: short, and printable."""

from __future__ import annotations

from gateway.errors import InvalidRequestError

MAX_LABEL_CHARACTERS = 200


def check_label(text: str, param: str) -> str:
    """Return `text` if it may be stored and shown; raises InvalidRequestError."""
    if len(text) > MAX_LABEL_CHARACTERS or not text.isprintable():
        raise InvalidRequestError(
            f"expected at most {MAX_LABEL_CHARACTERS} printable characters", param=param
        )
    return text
