"""The errors of the adapter store; nothing else leaves this package.

    AdapterStoreError
      FormatError                     untrusted bytes do not parse
        InvalidNameError              a tenant, adapter, digest or engine name is malformed
        NotAPackageError              the bytes do not begin as a TSSP package
        UnsupportedVersionError       a newer, older or weaker format than TSSP v1
        TruncatedError                the bytes end too early
        TrailingDataError             the bytes go on after the end
        TooLargeError                 a declared or counted size is over its limit
        NotCanonicalError             JSON is not in its one canonical form
        InvalidEnvelopeError          the signature envelope is malformed
        InvalidManifestError          the manifest has wrong, missing or unknown members
        InvalidRecipientsError        the recipients block is malformed, or nobody can open it
        InvalidRecordError            an activation or data-key record is malformed
        InvalidKeyError               a key's encoding is malformed
        InvalidBaseModelError         a base model's folder is incomplete or malformed
        AdapterConfigError            the PEFT config is malformed, or asks for what is not served
        TensorFileError               the safetensors file is malformed, or is not a plain LoRA
        AdapterFolderError            a folder to pack holds something else than an adapter
      VerificationError               bytes parse but must not be trusted
        SignatureError                a signature does not verify
          MissingSignatureError       one of the two required signatures is not there
          UnknownSignerError          signed, but by nobody whom the tenant has registered
        DigestMismatchError           bytes are not the ones that were signed
        KeyCommitmentError            the data key is not the one the publisher encrypted with
        ChunkError                    a chunk is changed, moved, cut off or from elsewhere
        PolicyError                   genuine, but not acceptable here
          WrongTenantError            made for another tenant
          WrongBaseModelError         made for another base model
          UnsupportedPackageError     made for a mode that this pool does not serve
          NotActiveError              the control plane has not activated it, or has revoked it
          RecordExpiredError          its activation has expired
          WrongEpochError             its activation is of another epoch
      KeyProviderError                a key is missing, refused, or its provider is away
        KeyNotFoundError              the provider has no such key
        KeyRefusedError               the key does not open this
        KeyringError                  a keyring file is missing, malformed or readable by others
        KeyProviderUnavailableError   the provider cannot be reached
      StorageError                    the object store refused, lacks the object, or is away
        ObjectNotFoundError           there is no such object
        ConflictError                 the object is already there
        StorageUnavailableError       the store cannot be reached, or is misconfigured

Every class has a stable `code`, which APIs and audit records carry. Messages say what was
expected and what was found; what strangers wrote is shown shortened and escaped, secrets never.
"""

from __future__ import annotations

from typing import ClassVar, Final

_SHOWN_CHARACTERS: Final = 80


def shown(value: object) -> str:
    """Return a stranger's value for an error message: ASCII, quoted, at most 80 characters."""
    text = ascii(value[: _SHOWN_CHARACTERS + 1] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


class AdapterStoreError(Exception):
    """Root of every error of the adapter store."""

    code: ClassVar[str] = "adapter_store_error"

    def __init__(
        self, message: str, *, expected: object | None = None, found: object | None = None
    ) -> None:
        self.expected = expected
        self.found = found
        if expected is not None:
            message += f": expected {expected}"
        if found is not None:
            message += f"{',' if expected is not None else ':'} found {found}"
        super().__init__(message)


class FormatError(AdapterStoreError):
    """Untrusted bytes do not parse; nothing of them was used."""

    code = "invalid_format"


class InvalidNameError(FormatError):
    """A name is malformed. The text itself is not repeated: it is a stranger's."""

    code = "invalid_name"

    def __init__(self, what: str, expected: str) -> None:
        super().__init__(f"invalid {what}", expected=expected)


class NotAPackageError(FormatError):
    """The bytes do not begin as a TSSP package."""

    code = "not_a_package"


class UnsupportedVersionError(FormatError):
    """The package is of another version, or asks for weaker algorithms, than TSSP v1."""

    code = "unsupported_version"


class TruncatedError(FormatError):
    """The bytes end before what they announce."""

    code = "truncated"


class TrailingDataError(FormatError):
    """The bytes go on after the end of what they announce."""

    code = "trailing_data"


class TooLargeError(FormatError):
    """A declared or counted size is over its limit."""

    code = "too_large"


class NotCanonicalError(FormatError):
    """JSON is not in its one canonical form (RFC 8785); repeated members end here, too."""

    code = "not_canonical"


class InvalidEnvelopeError(FormatError):
    """The signature envelope is malformed."""

    code = "invalid_envelope"


class InvalidManifestError(FormatError):
    """The manifest has wrong, missing, unknown or contradicting members."""

    code = "invalid_manifest"


class InvalidRecipientsError(FormatError):
    """The recipients block is malformed, or holds nobody who can open the package."""

    code = "invalid_recipients"


class InvalidRecordError(FormatError):
    """An activation record or a data-key record is malformed."""

    code = "invalid_record"


class InvalidKeyError(FormatError):
    """The encoding of a key is malformed."""

    code = "invalid_key"


class InvalidBaseModelError(FormatError):
    """A base model's folder is incomplete or malformed."""

    code = "invalid_base_model"


class AdapterConfigError(FormatError):
    """The PEFT config is malformed, or asks for what the engine does not serve."""

    code = "invalid_adapter_config"


class TensorFileError(FormatError):
    """The safetensors file is malformed, or holds something else than a plain LoRA."""

    code = "invalid_tensors"


class AdapterFolderError(FormatError):
    """A folder to be packed holds something else than one PEFT adapter in safetensors."""

    code = "invalid_adapter_folder"


class VerificationError(AdapterStoreError):
    """Bytes parse but must not be trusted."""

    code = "verification_failed"


class SignatureError(VerificationError):
    """A signature by a registered publisher does not verify."""

    code = "bad_signature"


class MissingSignatureError(SignatureError):
    """One of the two signatures, Ed25519 and ML-DSA-65, is not there."""

    code = "missing_signature"


class UnknownSignerError(SignatureError):
    """Nobody among the trusted publishers has signed this."""

    code = "unknown_signer"


class DigestMismatchError(VerificationError):
    """Bytes are not those that the signed manifest, or the object's name, speaks of."""

    code = "digest_mismatch"


class KeyCommitmentError(VerificationError):
    """The data key is not the one that the publisher committed to."""

    code = "wrong_data_key"


class ChunkError(VerificationError):
    """An encrypted chunk is changed, moved, cut off, or from another file or package."""

    code = "bad_chunk"


class PolicyError(VerificationError):
    """Genuine, but not acceptable here."""

    code = "policy_refused"


class WrongTenantError(PolicyError):
    """The package was made for another tenant."""

    code = "wrong_tenant"


class WrongBaseModelError(PolicyError):
    """The package was made for another base model."""

    code = "wrong_base_model"


class UnsupportedPackageError(PolicyError):
    """The package was made for a mode, or a number of shards, that this pool does not serve."""

    code = "unsupported_package"


class NotActiveError(PolicyError):
    """The control plane has not activated this adapter, or has revoked it."""

    code = "not_active"


class RecordExpiredError(PolicyError):
    """The activation of this adapter has expired."""

    code = "activation_expired"


class WrongEpochError(PolicyError):
    """The activation of this adapter is of another epoch than the engine asks for."""

    code = "wrong_epoch"


class KeyProviderError(AdapterStoreError):
    """A key is missing, refused, or its provider cannot be reached."""

    code = "key_provider_error"


class KeyNotFoundError(KeyProviderError):
    """The provider does not hold the key that is asked for."""

    code = "key_not_found"


class KeyRefusedError(KeyProviderError):
    """The key does not open this: it was sealed for other eyes, or changed."""

    code = "key_refused"


class KeyringError(KeyProviderError):
    """A keyring file is missing, malformed, already there, or readable by others."""

    code = "keyring_error"


class KeyProviderUnavailableError(KeyProviderError):
    """The key provider cannot be reached."""

    code = "key_provider_unavailable"


class StorageError(AdapterStoreError):
    """The object store refused, lacks the object, or cannot be reached."""

    code = "storage_error"


class ObjectNotFoundError(StorageError):
    """There is no such object."""

    code = "object_not_found"


class ConflictError(StorageError):
    """The object is already there, and is never overwritten."""

    code = "already_exists"


class StorageUnavailableError(StorageError):
    """The object store cannot be reached, is full, or is misconfigured."""

    code = "storage_unavailable"
