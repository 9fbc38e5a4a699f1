"""Two signatures or none: the envelope under manifests and activation records."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from adapter_store import canonical, errors
from adapter_store.tssp.signing import (
    PublisherPrivateKey,
    PublisherPublicKey,
    envelope_payload,
    sign_envelope,
    verify_envelope,
)

TYPE = "application/vnd.example+json"
PAYLOAD = b'{"hello":"world"}'


@pytest.fixture(scope="module")
def key() -> PublisherPrivateKey:
    return PublisherPrivateKey.generate()


@pytest.fixture(scope="module")
def stranger() -> PublisherPrivateKey:
    return PublisherPrivateKey.generate()


def test_what_was_signed_verifies_and_says_by_whom(
    key: PublisherPrivateKey, stranger: PublisherPrivateKey
) -> None:
    envelope = sign_envelope(TYPE, PAYLOAD, key)
    verified = verify_envelope(envelope, TYPE, [stranger.public_key, key.public_key])
    assert (verified.payload, verified.signer) == (PAYLOAD, key.public_key)


def test_the_signature_is_over_the_pre_authentication_encoding_of_dsse(
    key: PublisherPrivateKey,
) -> None:
    """The example of the DSSE protocol's own text, checked without our code."""
    envelope = json.loads(sign_envelope("http://example.com/HelloWorld", b"hello world", key))
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    Ed25519PublicKey.from_public_bytes(key.public_key.ed25519).verify(
        signature, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_nobody_is_trusted_by_default(key: PublisherPrivateKey) -> None:
    with pytest.raises(errors.UnknownSignerError):
        verify_envelope(sign_envelope(TYPE, PAYLOAD, key), TYPE, [])


def test_a_signature_for_one_purpose_is_none_for_another(key: PublisherPrivateKey) -> None:
    envelope = sign_envelope(TYPE, PAYLOAD, key)
    with pytest.raises(errors.InvalidEnvelopeError, match="payloadType"):
        verify_envelope(envelope, "application/other", [key.public_key])
    relabelled = json.loads(envelope) | {"payloadType": "application/other"}
    with pytest.raises(errors.SignatureError):
        verify_envelope(canonical.encode(relabelled), "application/other", [key.public_key])


@pytest.mark.parametrize("broken", ["ed25519", "mldsa65"])
def test_breaking_one_algorithm_does_not_help(
    key: PublisherPrivateKey, stranger: PublisherPrivateKey, broken: str
) -> None:
    """Someone who has one of the publisher's two private keys signs with it and their own other."""
    forged = json.loads(sign_envelope(TYPE, b"forged", key))
    own = json.loads(sign_envelope(TYPE, b"forged", stranger))
    index = 0 if broken == "mldsa65" else 1
    forged["signatures"][index]["sig"] = own["signatures"][index]["sig"]
    with pytest.raises(errors.SignatureError, match="does not verify"):
        verify_envelope(canonical.encode(forged), TYPE, [key.public_key])


def test_every_bit_of_a_small_envelope_matters(key: PublisherPrivateKey) -> None:
    envelope = sign_envelope(TYPE, PAYLOAD, key)
    verify_envelope(envelope, TYPE, [key.public_key])
    for index in range(0, len(envelope), 97):
        changed = bytearray(envelope)
        changed[index] ^= 1
        with pytest.raises(errors.AdapterStoreError):
            verify_envelope(bytes(changed), TYPE, [key.public_key])


def test_the_payload_can_be_shown_without_a_key(key: PublisherPrivateKey) -> None:
    assert envelope_payload(sign_envelope(TYPE, PAYLOAD, key), TYPE) == PAYLOAD


def test_keys_survive_their_json(key: PublisherPrivateKey) -> None:
    again = PublisherPrivateKey.from_json(key.to_json() + b"\n")
    assert again.public_key == key.public_key
    envelope = sign_envelope(TYPE, PAYLOAD, again)
    public = PublisherPublicKey.from_json(key.public_key.to_json())
    assert verify_envelope(envelope, TYPE, [public]).signer == key.public_key


def test_the_key_id_is_of_both_keys(
    key: PublisherPrivateKey, stranger: PublisherPrivateKey
) -> None:
    ours, theirs = key.public_key, stranger.public_key
    mixed = PublisherPublicKey.of(ed25519=ours.ed25519, mldsa65=theirs.mldsa65)
    assert len({ours.key_id, theirs.key_id, mixed.key_id}) == 3
    assert len(ours.key_id) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"key_id": "0" * 16},
        {"ed25519": "AAAA"},
        {"mldsa65": "AAAA"},
        {"mldsa65": 1},
        {"ed25519": None},
        {"extra": True},
        {"type": "tensafe-publisher-key/2"},
    ],
)
def test_a_malformed_public_key_is_refused(
    key: PublisherPrivateKey, change: dict[str, Any]
) -> None:
    data = canonical.encode(json.loads(key.public_key.to_json()) | change)
    with pytest.raises(errors.InvalidKeyError):
        PublisherPublicKey.from_json(data)


@pytest.mark.parametrize("data", [b"", b"null", b"\xff", b"[" * 1000, b" " * 20_000])
def test_what_is_no_key_is_refused(data: bytes) -> None:
    with pytest.raises(errors.FormatError):
        PublisherPublicKey.from_json(data)
    with pytest.raises(errors.FormatError):
        PublisherPrivateKey.from_json(data)


def test_a_private_key_is_not_read_as_a_public_one_nor_shown(key: PublisherPrivateKey) -> None:
    with pytest.raises(errors.InvalidKeyError) as caught:
        PublisherPublicKey.from_json(key.to_json())
    seeds = [value for name, value in json.loads(key.to_json()).items() if name != "type"]
    assert len(seeds) == 2
    for seed in seeds:
        assert seed not in str(caught.value)
        assert base64.b64decode(seed).hex() not in repr(key)
        assert seed not in repr(key)
