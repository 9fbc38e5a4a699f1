"""Hybrid signatures in a DSSE envelope: Ed25519 and ML-DSA-65, both required.

The envelope is that of https://github.com/secure-systems-lab/dsse, in canonical JSON, with
exactly two signatures, of one publisher. An attacker has to break both algorithms; neither can
be stripped. One code path signs manifests and activation records: the payload type, which is
signed, keeps them apart.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from msgspec import Meta, Struct

from adapter_store import canonical
from adapter_store.errors import (
    InvalidEnvelopeError,
    InvalidKeyError,
    MissingSignatureError,
    SignatureError,
    UnknownSignerError,
    shown,
)

ED25519_KEY_BYTES: Final = 32  # RFC 8032
MLDSA65_KEY_BYTES: Final = 1952  # FIPS 204, table 2
_SEED_BYTES: Final = 32
_KEY_ID_DIGITS: Final = 16
_MAX_KEY_FILE_BYTES: Final = 16 << 10

_ED25519: Final = "ed25519"
_MLDSA65: Final = "ml-dsa-65"
_ALGORITHMS: Final = (_ED25519, _MLDSA65)
T = TypeVar("T")

_Seed = Annotated[bytes, Meta(min_length=_SEED_BYTES, max_length=_SEED_BYTES)]


class PublisherPublicKey(
    Struct, frozen=True, forbid_unknown_fields=True, tag="tensafe-publisher-key/1", tag_field="type"
):
    """The public half of a publisher's two keys, known by an id that is derived from both."""

    key_id: str
    ed25519: Annotated[bytes, Meta(min_length=ED25519_KEY_BYTES, max_length=ED25519_KEY_BYTES)]
    mldsa65: Annotated[bytes, Meta(min_length=MLDSA65_KEY_BYTES, max_length=MLDSA65_KEY_BYTES)]

    def __post_init__(self) -> None:
        if self.key_id != _key_id(self.ed25519, self.mldsa65):
            raise ValueError("key_id is not the one of these keys")

    @classmethod
    def of(cls, *, ed25519: bytes, mldsa65: bytes) -> PublisherPublicKey:
        """Return the public key with its id worked out."""
        return cls(_key_id(ed25519, mldsa65), ed25519, mldsa65)

    def to_json(self) -> bytes:
        """Return the key's one JSON encoding."""
        return canonical.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> PublisherPublicKey:
        """Return the key in `data`; raises InvalidKeyError."""
        return _key_from_json(data, cls, "publisher key")


class _PrivateKeyFile(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag="tensafe-publisher-private-key/1",
    tag_field="type",
):
    ed25519: _Seed
    mldsa65: _Seed


class PublisherPrivateKey:
    """A publisher's two private keys. Its repr shows the public key id only."""

    __slots__ = ("_ed25519", "_mldsa65", "public_key")

    def __init__(self, *, ed25519_seed: bytes, mldsa65_seed: bytes) -> None:
        self._ed25519 = Ed25519PrivateKey.from_private_bytes(ed25519_seed)
        self._mldsa65 = MLDSA65PrivateKey.from_seed_bytes(mldsa65_seed)
        self.public_key: Final = PublisherPublicKey.of(
            ed25519=self._ed25519.public_key().public_bytes_raw(),
            mldsa65=self._mldsa65.public_key().public_bytes_raw(),
        )

    @classmethod
    def generate(cls) -> PublisherPrivateKey:
        """Return a new key from the operating system's randomness."""
        return cls(ed25519_seed=os.urandom(_SEED_BYTES), mldsa65_seed=os.urandom(_SEED_BYTES))

    def to_json(self) -> bytes:
        """Return the key's JSON encoding: a secret, for a file of mode 0600 only."""
        return canonical.encode(
            _PrivateKeyFile(self._ed25519.private_bytes_raw(), self._mldsa65.private_bytes_raw())
        )

    @classmethod
    def from_json(cls, data: bytes) -> PublisherPrivateKey:
        """Return the key in `data`; raises InvalidKeyError, which shows nothing of it."""
        file = _key_from_json(data, _PrivateKeyFile, "publisher private key")
        return cls(ed25519_seed=file.ed25519, mldsa65_seed=file.mldsa65)

    def sign(self, message: bytes) -> tuple[bytes, bytes]:
        """Return the Ed25519 and the ML-DSA-65 signature of `message`."""
        return self._ed25519.sign(message), self._mldsa65.sign(message)

    def __repr__(self) -> str:
        return f"PublisherPrivateKey(key_id={self.public_key.key_id!r})"


@dataclass(frozen=True, slots=True)
class VerifiedPayload:
    """A payload, and the trusted publisher whose two signatures on it hold."""

    payload: bytes
    signer: PublisherPublicKey


class _Signature(Struct, frozen=True, forbid_unknown_fields=True):
    keyid: Annotated[str, Meta(max_length=64)]
    sig: Annotated[bytes, Meta(max_length=4096)]


class _Envelope(Struct, frozen=True, forbid_unknown_fields=True):
    payload: bytes
    payloadType: Annotated[str, Meta(max_length=128)]  # noqa: N815  DSSE's spelling
    signatures: Annotated[tuple[_Signature, ...], Meta(max_length=16)]


def sign_envelope(payload_type: str, payload: bytes, key: PublisherPrivateKey) -> bytes:
    """Return the canonical DSSE envelope of `payload`, signed with both of `key`'s algorithms."""
    signatures = key.sign(_pre_authentication_encoding(payload_type, payload))
    return canonical.encode(
        _Envelope(
            payload=payload,
            payloadType=payload_type,
            signatures=tuple(
                _Signature(keyid=f"{key.public_key.key_id}:{algorithm}", sig=signature)
                for algorithm, signature in zip(_ALGORITHMS, signatures, strict=True)
            ),
        )
    )


def verify_envelope(
    envelope: bytes, payload_type: str, trusted: Collection[PublisherPublicKey]
) -> VerifiedPayload:
    """Return the payload of `envelope`, once both signatures of one of `trusted` hold.

    Raises InvalidEnvelopeError or NotCanonicalError if it is malformed or of another payload
    type, MissingSignatureError if it has not exactly the two signatures of one signer,
    UnknownSignerError if that signer is not trusted, SignatureError if either does not verify.
    """
    parsed = _parse_envelope(envelope, payload_type)
    key_id = _only_signer(parsed.signatures)
    signer = next((key for key in trusted if key.key_id == key_id), None)
    if signer is None:
        raise UnknownSignerError(
            "signer", expected="a registered publisher key", found=shown(key_id)
        )
    message = _pre_authentication_encoding(payload_type, parsed.payload)
    ed25519_signature, mldsa65_signature = (signature.sig for signature in parsed.signatures)
    try:
        Ed25519PublicKey.from_public_bytes(signer.ed25519).verify(ed25519_signature, message)
    except (InvalidSignature, ValueError):
        raise SignatureError(f"the Ed25519 signature by {key_id} does not verify") from None
    try:
        MLDSA65PublicKey.from_public_bytes(signer.mldsa65).verify(mldsa65_signature, message)
    except (InvalidSignature, ValueError):
        raise SignatureError(f"the ML-DSA-65 signature by {key_id} does not verify") from None
    return VerifiedPayload(payload=parsed.payload, signer=signer)


def envelope_payload(envelope: bytes, payload_type: str) -> bytes:
    """Return the payload of an envelope without looking at its signatures: for display only."""
    return _parse_envelope(envelope, payload_type).payload


def _parse_envelope(envelope: bytes, payload_type: str) -> _Envelope:
    parsed = canonical.decode(envelope, _Envelope, what="envelope", error=InvalidEnvelopeError)
    if parsed.payloadType != payload_type:
        raise InvalidEnvelopeError(
            "envelope: payloadType", expected=payload_type, found=shown(parsed.payloadType)
        )
    return parsed


def _only_signer(signatures: tuple[_Signature, ...]) -> str:
    """Return the key id that has signed with each algorithm once, in order."""
    names = tuple(signature.keyid for signature in signatures)
    key_id = names[0].partition(":")[0] if names else ""
    expected = tuple(f"{key_id}:{algorithm}" for algorithm in _ALGORITHMS)
    if names != expected:
        raise MissingSignatureError(
            "signatures",
            expected="one ed25519 and one ml-dsa-65 by the same key",
            found=shown(", ".join(names)) if names else "none",
        )
    return key_id


def _pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """DSSE v1: every part is preceded by its length, so that no two inputs encode alike."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _key_id(ed25519: bytes, mldsa65: bytes) -> str:
    return hashlib.sha256(ed25519 + mldsa65).hexdigest()[:_KEY_ID_DIGITS]


def _key_from_json(data: bytes, type_: type[T], what: str) -> T:
    if len(data) > _MAX_KEY_FILE_BYTES:
        raise InvalidKeyError(
            what, expected=f"at most {_MAX_KEY_FILE_BYTES} bytes", found=len(data)
        )
    # An editor's final newline is no reason to refuse a key file.
    return canonical.decode(data.rstrip(b"\r\n"), type_, what=what, error=InvalidKeyError)
