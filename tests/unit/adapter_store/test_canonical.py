"""One encoding for each value of ours; no repeated members in anybody's."""

from __future__ import annotations

import pytest
from msgspec import Struct

from adapter_store import canonical, foreign_json
from adapter_store.errors import InvalidManifestError, NotCanonicalError, shown


class Point(Struct, frozen=True, forbid_unknown_fields=True):
    x: float
    name: str


def decode(data: bytes) -> Point:
    return canonical.decode(data, Point, what="point", error=InvalidManifestError)


def test_the_canonical_encoding_is_read() -> None:
    assert canonical.encode(Point(1.0, "é")) == '{"name":"é","x":1}'.encode()
    assert decode('{"name":"é","x":1}'.encode()) == Point(1.0, "é")


@pytest.mark.parametrize(
    "data",
    [
        b'{"x":1,"name":"a"}',
        b'{"name":"a", "x":1}',
        b'{"name":"a","x":1}\n',
        b'{"name":"a","x":1.0}',
        b'{"name":"a","x":1e0}',
        b'{"name":"\\u0061","x":1}',
        b'{"name":"b","name":"a","x":1}',
    ],
)
def test_another_encoding_of_the_same_value_is_refused(data: bytes) -> None:
    with pytest.raises(NotCanonicalError):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"name":"a","x":"1"}',
        b'{"name":"a","x":1,"y":2}',
        b'{"name":"a","x":NaN}',
        b'{"name":"\xff","x":1}',
        b'{"name":' + b"[" * 100_000,
        b'{"name":"a","x":1}{}',
    ],
)
def test_another_value_is_refused_by_the_callers_error(data: bytes) -> None:
    with pytest.raises(InvalidManifestError, match="point"):
        decode(data)


def test_a_number_that_json_cannot_carry_has_no_canonical_form() -> None:
    with pytest.raises((NotCanonicalError, InvalidManifestError)):
        decode(b'{"name":"a","x":1e999}')


def test_foreign_json_may_be_laid_out_as_it_likes() -> None:
    parsed = foreign_json.parse_object(
        b' {\n "b" : [1, {"a": 2.0}], "a": "\\u0061" }', what="it", error=InvalidManifestError
    )
    assert parsed == {"b": [1, {"a": 2.0}], "a": "a"}


def test_what_strangers_wrote_is_shown_short_and_escaped() -> None:
    assert shown("a\0\n\x1b[31mü") == r"'a\x00\n\x1b[31m\xfc'"
    assert len(shown("x" * 10_000)) == 80
    assert len(shown(["x" * 10_000])) == 80
