"""What the pool asks of whoever keeps its keys: to open, wrap and unwrap data keys."""

from __future__ import annotations

from typing import Protocol

from adapter_store.tssp.encryption import DataKey
from adapter_store.tssp.recipients import IngestPublicKey, SealedDataKey, WrappedDataKey
from adapter_store.types import Digest, TenantId


class KeyProvider(Protocol):
    """Keeps wrapping and ingest keys; safe to call from several threads.

    Every method raises KeyProviderUnavailableError when the provider cannot be reached.
    """

    def ingest_public_key(self, tenant: TenantId) -> IngestPublicKey:
        """Return the key that this tenant's publishers seal their data keys for."""
        ...

    def open_ingest(self, tenant: TenantId, sealed: SealedDataKey, digest: Digest) -> DataKey:
        """Return the data key that a publisher sealed for this tenant's package `digest`.

        Raises KeyNotFoundError if it was sealed for a key that is not here, KeyRefusedError if
        it was sealed for another tenant or package, or was changed.
        """
        ...

    def wrap(self, tenant: TenantId, digest: Digest, data_key: DataKey) -> WrappedDataKey:
        """Return the data key wrapped for this tenant's package `digest` alone."""
        ...

    def unwrap(self, tenant: TenantId, digest: Digest, wrapped: WrappedDataKey) -> DataKey:
        """Return the data key that `wrap` was given.

        Raises KeyNotFoundError if another provider or key wrapped it, KeyRefusedError if it was
        wrapped for another tenant or package, or was changed.
        """
        ...
