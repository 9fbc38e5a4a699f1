"""Who can open a package: its data key, sealed for an ingest key or wrapped by a key provider.

An ingest key is an X-Wing key (ML-KEM-768 and X25519 together, draft-connolly-cfrg-xwing-kem):
whoever records an upload today has to break both to read it later. HPKE is that of RFC 9180.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from msgspec import Meta, Struct

from adapter_store import canonical
from adapter_store.errors import (
    InvalidKeyError,
    InvalidRecipientsError,
    InvalidRecordError,
    KeyRefusedError,
)
from adapter_store.tssp.encryption import DATA_KEY_BYTES, DataKey
from adapter_store.tssp.format import MAX_RECIPIENTS, MAX_RECIPIENTS_BYTES
from adapter_store.types import Digest, TenantId

INGEST_ALGORITHM: Final = "hpke-xwing"
MLKEM768_KEY_BYTES: Final = 1184  # FIPS 203, table 3
X25519_KEY_BYTES: Final = 32  # RFC 7748
INGEST_KEY_BYTES: Final = MLKEM768_KEY_BYTES + X25519_KEY_BYTES
_KEY_ID_DIGITS: Final = 16
_INFO_LABEL: Final = b"tssp/1 ingest"
_MAX_INGEST_KEY_JSON: Final = 4 << 10

_SUITE: Final = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)

KeyId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:/-]{1,128}\Z")]


class IngestPublicKey(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The public key that a tenant's publishers seal data keys for: ML-KEM-768, then X25519."""

    key_id: str
    algorithm: Literal["hpke-xwing"]
    public_key: Annotated[bytes, Meta(min_length=INGEST_KEY_BYTES, max_length=INGEST_KEY_BYTES)]

    def __post_init__(self) -> None:
        if self.key_id != _ingest_key_id(self.public_key):
            raise ValueError("key_id is not the one of this key")

    @classmethod
    def of(cls, public_key: bytes) -> IngestPublicKey:
        """Return the public key with its id worked out."""
        return cls(key_id=_ingest_key_id(public_key), algorithm="hpke-xwing", public_key=public_key)

    def to_json(self) -> bytes:
        """Return the key's one JSON encoding."""
        return canonical.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> IngestPublicKey:
        """Return the key in `data`; raises InvalidKeyError."""
        if len(data) > _MAX_INGEST_KEY_JSON:
            raise InvalidKeyError("ingest key", expected=f"at most {_MAX_INGEST_KEY_JSON} bytes")
        return canonical.decode(data.rstrip(b"\r\n"), cls, what="ingest key", error=InvalidKeyError)


class SealedDataKey(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag="hpke-xwing",
    tag_field="type",
):
    """A data key sealed for an ingest key: HPKE's encapsulated key, then its ciphertext."""

    key_id: KeyId
    sealed: Annotated[bytes, Meta(min_length=1, max_length=4096)]


class WrappedDataKey(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="kms", tag_field="type"
):
    """A data key wrapped by a key provider, for that provider alone to unwrap."""

    provider: KeyId
    key_id: KeyId
    wrapped: Annotated[bytes, Meta(min_length=1, max_length=4096)]

    def to_json(self) -> bytes:
        """Return the one JSON encoding, as kept beside an admitted package."""
        return canonical.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> WrappedDataKey:
        """Return the wrapped key in `data`; raises InvalidRecordError or NotCanonicalError."""
        return canonical.decode(data, cls, what="data key record", error=InvalidRecordError)


Recipient = SealedDataKey | WrappedDataKey
_Recipients = Annotated[tuple[Recipient, ...], Meta(max_length=MAX_RECIPIENTS)]


def encode_recipients(recipients: tuple[Recipient, ...]) -> bytes:
    """Return the recipients block."""
    return canonical.encode(recipients)


def decode_recipients(data: bytes) -> tuple[Recipient, ...]:
    """Return the recipients in a block; raises InvalidRecipientsError or NotCanonicalError."""
    if len(data) > MAX_RECIPIENTS_BYTES:
        raise InvalidRecipientsError(
            "recipients", expected=f"at most {MAX_RECIPIENTS_BYTES} bytes", found=len(data)
        )
    return canonical.decode(data, _Recipients, what="recipients", error=InvalidRecipientsError)


def seal_data_key(
    key: DataKey, recipient: IngestPublicKey, *, tenant: TenantId, digest: Digest
) -> SealedDataKey:
    """Return `key` sealed for `recipient`, good for this tenant's package of this digest only."""
    raw = recipient.public_key
    try:
        public_key = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(raw[:MLKEM768_KEY_BYTES]),
            X25519PublicKey.from_public_bytes(raw[MLKEM768_KEY_BYTES:]),
        )
    except ValueError as invalid:
        raise InvalidKeyError(f"ingest key {recipient.key_id}: {invalid}") from None
    sealed = _SUITE.encrypt(key.reveal(), public_key, _info(tenant, digest))
    return SealedDataKey(key_id=recipient.key_id, sealed=sealed)


def open_data_key(
    sealed: SealedDataKey,
    private_key: hpke.MLKEM768X25519PrivateKey,
    *,
    tenant: TenantId,
    digest: Digest,
) -> DataKey:
    """Return the data key in `sealed`.

    Raises KeyRefusedError if it was sealed for another key, tenant or package, or was changed.
    """
    try:
        secret = _SUITE.decrypt(sealed.sealed, private_key, _info(tenant, digest))
    except InvalidTag:
        secret = b""
    if len(secret) != DATA_KEY_BYTES:
        raise KeyRefusedError(
            f"ingest key {sealed.key_id} does not open this package's data key for this tenant"
        )
    return DataKey(secret)


def _info(tenant: TenantId, digest: Digest) -> bytes:
    """Bind a sealed key to its place; neither part can contain the zero byte between them."""
    return b"\0".join((_INFO_LABEL, tenant.encode(), digest.encode()))


def _ingest_key_id(public_key: bytes) -> str:
    return hashlib.sha256(public_key).hexdigest()[:_KEY_ID_DIGITS]
