"""A key provider that keeps its keys in memory, in the plainest way that keeps the promise."""

from __future__ import annotations

import secrets

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from adapter_store.errors import (
    KeyNotFoundError,
    KeyProviderUnavailableError,
    KeyRefusedError,
)
from adapter_store.tssp.encryption import DataKey
from adapter_store.tssp.recipients import (
    IngestPublicKey,
    SealedDataKey,
    WrappedDataKey,
    open_data_key,
)
from adapter_store.types import Digest, TenantId


class FakeKeyProvider:
    """Wraps by remembering; set `away` to make it unreachable."""

    def __init__(self) -> None:
        self.away = False
        self._ingest: dict[TenantId, tuple[MLKEM768PrivateKey, X25519PrivateKey]] = {}
        self._wrapped: dict[bytes, tuple[TenantId, Digest, bytes]] = {}

    def ingest_public_key(self, tenant: TenantId) -> IngestPublicKey:
        mlkem, x25519 = self._ingest_keys(tenant)
        return IngestPublicKey.of(
            mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        )

    def open_ingest(self, tenant: TenantId, sealed: SealedDataKey, digest: Digest) -> DataKey:
        if sealed.key_id != self.ingest_public_key(tenant).key_id:
            raise KeyNotFoundError("no such ingest key")
        private_key = hpke.MLKEM768X25519PrivateKey(*self._ingest_keys(tenant))
        return open_data_key(sealed, private_key, tenant=tenant, digest=digest)

    def wrap(self, tenant: TenantId, digest: Digest, data_key: DataKey) -> WrappedDataKey:
        self._require_reachable()
        ticket = secrets.token_bytes(16)
        self._wrapped[ticket] = tenant, digest, data_key.reveal()
        return WrappedDataKey(provider="fake", key_id="1", wrapped=ticket)

    def unwrap(self, tenant: TenantId, digest: Digest, wrapped: WrappedDataKey) -> DataKey:
        self._require_reachable()
        if (wrapped.provider, wrapped.key_id) != ("fake", "1"):
            raise KeyNotFoundError("no such wrapping key")
        entry = self._wrapped.get(wrapped.wrapped)
        if entry is None or entry[:2] != (tenant, digest):
            raise KeyRefusedError("this was wrapped for another package")
        return DataKey(entry[2])

    def _ingest_keys(self, tenant: TenantId) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
        self._require_reachable()
        if tenant not in self._ingest:
            self._ingest[tenant] = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        return self._ingest[tenant]

    def _require_reachable(self) -> None:
        if self.away:
            raise KeyProviderUnavailableError("the fake key provider is away")
