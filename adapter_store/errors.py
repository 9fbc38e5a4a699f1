"""The errors of the adapter store; nothing else leaves this package.

    AdapterStoreError
      FormatError                 untrusted bytes do not parse
        InvalidNameError          a tenant, adapter, digest or engine name is malformed
      VerificationError           bytes parse but must not be trusted
      KeyProviderError            a key is missing, refused, or its provider is away
      StorageError                the object store refused, lacks the object, or is away

Every class has a stable `code`, which APIs and audit records carry.
"""

from __future__ import annotations

from typing import ClassVar


class AdapterStoreError(Exception):
    """Root of every error of the adapter store."""

    code: ClassVar[str] = "adapter_store_error"


class FormatError(AdapterStoreError):
    """Untrusted bytes do not parse; nothing of them was used."""

    code = "invalid_format"


class InvalidNameError(FormatError):
    """A name is malformed. The text itself is not repeated: it is a stranger's."""

    code = "invalid_name"

    def __init__(self, what: str, expected: str) -> None:
        super().__init__(f"invalid {what}: expected {expected}")


class VerificationError(AdapterStoreError):
    """Bytes parse but must not be trusted."""

    code = "verification_failed"


class KeyProviderError(AdapterStoreError):
    """A key is missing, refused, or its provider cannot be reached."""

    code = "key_provider_error"


class StorageError(AdapterStoreError):
    """The object store refused, lacks the object, or cannot be reached."""

    code = "storage_error"
