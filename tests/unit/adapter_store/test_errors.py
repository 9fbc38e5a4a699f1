"""The error tree is a contract: every class has a code of its own and a place in the drawing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adapter_store import errors
from adapter_store.errors import AdapterStoreError, FormatError, InvalidNameError


def tree(root: type[AdapterStoreError], depth: int = 1) -> Iterator[tuple[int, str, str]]:
    yield depth, root.__name__, root.code
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child, depth + 1)


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [code for _, _, code in tree(AdapterStoreError)]
    assert len(codes) == len(set(codes)) > 30
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_the_drawing_of_the_tree_is_the_tree() -> None:
    drawn = re.findall(r"^( {4,})(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    assert [(len(indent) // 2 - 1, name) for indent, name in drawn] == [
        (depth, name) for depth, name, _ in tree(AdapterStoreError)
    ]


def test_a_message_says_what_was_expected_and_what_was_found() -> None:
    assert str(FormatError("it")) == "it"
    assert str(FormatError("it", expected="a")) == "it: expected a"
    assert str(FormatError("it", found=0)) == "it: found 0"
    assert str(FormatError("it", expected=1, found="b")) == "it: expected 1, found b"


def test_an_invalid_name_is_not_repeated() -> None:
    assert str(InvalidNameError("tenant id", "a-z")) == "invalid tenant id: expected a-z"
