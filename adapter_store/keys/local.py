"""A key provider whose keys are derived from the pool's own keyring file."""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from adapter_store.errors import KeyNotFoundError, KeyRefusedError, shown
from adapter_store.keys.keyring import PoolKeys
from adapter_store.tssp.encryption import DATA_KEY_BYTES, DataKey
from adapter_store.tssp.recipients import (
    IngestPublicKey,
    SealedDataKey,
    WrappedDataKey,
    open_data_key,
)
from adapter_store.types import Digest, TenantId

PROVIDER: Final = "local"
_WRAP_LABEL: Final = b"tensafe/local/1 wrap"
_INGEST_LABEL: Final = b"tensafe/local/1 ingest"
_MLKEM_SEED_BYTES: Final = 64  # FIPS 203: d and z
_X25519_SEED_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class LocalKeyProvider:
    """Derives a key per tenant, and per package, from the pool's two seeds; keeps no state."""

    def __init__(self, keys: PoolKeys) -> None:
        self._keys = keys

    def ingest_public_key(self, tenant: TenantId) -> IngestPublicKey:
        """Return the key that this tenant's publishers seal their data keys for."""
        mlkem, x25519 = self._ingest_private_keys(tenant)
        return IngestPublicKey.of(
            mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        )

    def open_ingest(self, tenant: TenantId, sealed: SealedDataKey, digest: Digest) -> DataKey:
        """Return the sealed data key; raises KeyNotFoundError or KeyRefusedError."""
        expected = self.ingest_public_key(tenant).key_id
        if sealed.key_id != expected:
            raise KeyNotFoundError("ingest key", expected=expected, found=shown(sealed.key_id))
        private_key = hpke.MLKEM768X25519PrivateKey(*self._ingest_private_keys(tenant))
        return open_data_key(sealed, private_key, tenant=tenant, digest=digest)

    def wrap(self, tenant: TenantId, digest: Digest, data_key: DataKey) -> WrappedDataKey:
        """Return the data key wrapped for this tenant's package `digest` alone."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._wrapping_key(tenant, digest).encrypt(nonce, data_key.reveal(), None)
        return WrappedDataKey(provider=PROVIDER, key_id=self._key_id, wrapped=nonce + sealed)

    def unwrap(self, tenant: TenantId, digest: Digest, wrapped: WrappedDataKey) -> DataKey:
        """Return the wrapped data key; raises KeyNotFoundError or KeyRefusedError."""
        if (wrapped.provider, wrapped.key_id) != (PROVIDER, self._key_id):
            raise KeyNotFoundError(
                "wrapping key",
                expected=f"{PROVIDER} {self._key_id}",
                found=shown(f"{wrapped.provider} {wrapped.key_id}"),
            )
        nonce, sealed = wrapped.wrapped[:_NONCE_BYTES], wrapped.wrapped[_NONCE_BYTES:]
        try:
            secret = self._wrapping_key(tenant, digest).decrypt(nonce, sealed, None)
        except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce
            secret = b""
        if len(secret) != DATA_KEY_BYTES:
            raise KeyRefusedError(
                f"wrapping key {wrapped.key_id} does not open this data key for this package"
            )
        return DataKey(secret)

    @property
    def _key_id(self) -> str:
        return f"v{self._keys.version}"

    def _wrapping_key(self, tenant: TenantId, digest: Digest) -> AESGCM:
        """A key for one package: tenant and digest are in its derivation, as with Vault's
        `derived=true`, so a wrapped key opens nowhere else and nonces never meet."""
        return AESGCM(_derive(self._keys.wrapping_seed, _WRAP_LABEL, tenant, digest, length=32))

    def _ingest_private_keys(self, tenant: TenantId) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
        seed = _derive(
            self._keys.ingest_seed,
            _INGEST_LABEL,
            tenant,
            length=_MLKEM_SEED_BYTES + _X25519_SEED_BYTES,
        )
        return (
            MLKEM768PrivateKey.from_seed_bytes(seed[:_MLKEM_SEED_BYTES]),
            X25519PrivateKey.from_private_bytes(seed[_MLKEM_SEED_BYTES:]),
        )


def _derive(seed: bytes, label: bytes, *context: str, length: int) -> bytes:
    """HKDF with the label and the context as `info`; no context can contain a zero byte."""
    info = b"\0".join((label, *(part.encode() for part in context)))
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(seed)
