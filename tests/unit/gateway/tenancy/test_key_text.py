"""The text of an API key says where it belongs, finds typing errors, and hides its secret."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tenancy.key_text import KeyText, MalformedKeyError, Pepper

PEPPER = Pepper(1, b"p" * 32)
BASE62 = string.digits + string.ascii_letters


def test_a_key_has_the_documented_form() -> None:
    key = KeyText.generate("live")
    assert re.fullmatch(r"tsk_live_[0-9A-Za-z]{16}_[0-9A-Za-z]{43}[0-9A-Za-z]{6}", key.reveal())
    assert KeyText.parse(key.reveal()) == key


def test_a_known_key_keeps_its_checksum_and_mac() -> None:
    """Keys that were handed out must go on working: neither may ever change."""
    text = "tsk_test_0123456789abcdef_" + "7" * 43
    with pytest.raises(MalformedKeyError):
        KeyText.parse(text + "000000")
    key = KeyText.parse(text + "38gnuI")
    assert (
        key.mac(PEPPER).hex() == "95a3fd1da561b44f96c182387851f7bd2ab53af8808619d503ca65ac020b83f6"
    )


def test_keys_are_all_different() -> None:
    keys = {KeyText.generate("live").reveal() for _ in range(1000)}
    assert len(keys) == 1000


def test_every_changed_character_is_noticed_offline() -> None:
    text = KeyText.generate("live").reveal()
    for place, old in enumerate(text):
        new = "0" if old != "0" else "1"
        with pytest.raises(MalformedKeyError):
            KeyText.parse(text[:place] + new + text[place + 1 :])


@pytest.mark.parametrize(
    "text",
    ["", "tsk", "tsk_live_", "Bearer x", "sk-1", "tsk_live_" + "é" * 66, "tsk_live_" + "a" * 10**6],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(MalformedKeyError):
        KeyText.parse(text)


def test_surroundings_are_not_overlooked() -> None:
    text = KeyText.generate("live").reveal()
    for other in (text + "\n", " " + text, text + "\x00", text.upper()):
        with pytest.raises(MalformedKeyError):
            KeyText.parse(other)


@given(st.text(max_size=100))
@settings(max_examples=200)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with pytest.raises(MalformedKeyError):
        KeyText.parse(text)


def test_the_secret_is_in_no_repr_and_no_error() -> None:
    key = KeyText.generate("live")
    secret = key.reveal()[26:]
    assert secret not in repr(key)
    assert secret not in f"{key}"
    assert "ppp" not in repr(PEPPER)
    with pytest.raises(MalformedKeyError) as refused:
        KeyText.parse(key.reveal() + "x")
    assert secret not in str(refused.value)


def test_the_mac_depends_on_pepper_and_on_every_part_of_the_key() -> None:
    key = KeyText.generate("live")
    macs = {
        key.mac(PEPPER),
        key.mac(Pepper(2, b"q" * 32)),
        KeyText.generate("live").mac(PEPPER),
    }
    assert len(macs) == 3
    assert key.mac(PEPPER) == KeyText.parse(key.reveal()).mac(PEPPER)
