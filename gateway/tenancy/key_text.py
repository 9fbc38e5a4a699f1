"""The text of an API key: `tsk_<environment>_<key id>_<secret><checksum>`, and its MAC."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field
from typing import Self

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_BYTES = 32
_ID_DIGITS, _SECRET_DIGITS, _CHECKSUM_DIGITS = 16, 43, 6  # 62^43 > 2^256, 62^6 > 2^32
_KEY = re.compile(
    rf"(?P<body>tsk_(?P<environment>[a-z]{{1,12}})_(?P<key_id>[0-9A-Za-z]{{{_ID_DIGITS}}})"
    rf"_[0-9A-Za-z]{{{_SECRET_DIGITS}}})(?P<checksum>[0-9A-Za-z]{{{_CHECKSUM_DIGITS}}})"
)
_DOMAIN = b"tensafe api key v1\x00"


class MalformedKeyError(ValueError):
    """The text is not an API key: a wrong shape, or a typing error that the checksum found."""


@dataclass(frozen=True, slots=True)
class Pepper:
    """The server's own key for the MACs of API keys; a stolen database is useless without it."""

    version: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyText:
    """A key's whole text, hidden from repr; the only way to see it is `reveal()`."""

    environment: str
    key_id: str
    _text: str = field(repr=False)

    @classmethod
    def generate(cls, environment: str) -> Self:
        """Return a new key with 256 random bits."""
        key_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_DIGITS))
        secret = _base62(int.from_bytes(secrets.token_bytes(_SECRET_BYTES)), _SECRET_DIGITS)
        body = f"tsk_{environment}_{key_id}_{secret}"
        return cls(environment, key_id, body + _checksum(body))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return a key that is well formed; raises MalformedKeyError, repeating none of it."""
        match = _KEY.fullmatch(text)
        if match is None or _checksum(match["body"]) != match["checksum"]:
            raise MalformedKeyError("expected tsk_<environment>_<key id>_<secret><checksum>")
        return cls(match["environment"], match["key_id"], text)

    def reveal(self) -> str:
        """Return the text itself, for showing it to its owner once."""
        return self._text

    def mac(self, pepper: Pepper) -> bytes:
        """Return HMAC-SHA256 over the whole text, so over environment and id as well.

        A fast MAC is enough: 256 random bits cannot be guessed, and a slow hash on every request
        would be a gift to whoever wants to exhaust the gateway.
        """
        return hmac.digest(pepper.secret, _DOMAIN + self._text.encode("ascii"), hashlib.sha256)


def _checksum(body: str) -> str:
    """Return the CRC32 of the rest: finds typing errors offline, and is no security."""
    return _base62(zlib.crc32(body.encode("ascii")), _CHECKSUM_DIGITS)


def _base62(number: int, digits: int) -> str:
    text = ""
    for _ in range(digits):
        number, digit = divmod(number, 62)
        text = _ALPHABET[digit] + text
    return text
