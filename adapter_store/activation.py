"""Activation records: what the control plane allows the pool to load, signed and dated."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from adapter_store import canonical
from adapter_store.errors import InvalidNameError, InvalidRecordError
from adapter_store.tssp.format import ACTIVATION_TYPE
from adapter_store.tssp.signing import (
    PublisherPrivateKey,
    PublisherPublicKey,
    sign_envelope,
    verify_envelope,
)
from adapter_store.types import Digest, TenantId, parse_digest, parse_tenant_id

MAX_RECORD_BYTES: Final = 64 << 10
"""A record with its publisher's key and both signatures takes about 10 KiB."""

Now = Callable[[], datetime]
"""Returns the current time, aware of its zone."""

State = Literal["admitting", "active", "revoked"]


class ActivationRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One adapter's standing: whose it is, under which epoch it may be served, and until when.

    `admitting` lets the pool open and check the package; `active` lets it serve; `revoked`
    neither. The publisher's key is in it, so the pool need not know who is registered.
    """

    tenant: TenantId
    digest: Digest
    epoch: Annotated[int, Meta(ge=0, le=999_999_999)]
    state: State
    publisher: PublisherPublicKey
    issued_at: Annotated[datetime, Meta(tz=True)]
    expires_at: Annotated[datetime, Meta(tz=True)]


def sign_activation(record: ActivationRecord, key: PublisherPrivateKey) -> bytes:
    """Return the record's envelope, signed with the gateway's activation key."""
    return sign_envelope(ACTIVATION_TYPE, canonical.encode(record), key)


def verify_activation(envelope: bytes, activation_key: PublisherPublicKey) -> ActivationRecord:
    """Return the record in `envelope`; its state and dates are the caller's to check.

    Raises SignatureError (or one of its kinds) unless the gateway signed it, InvalidRecordError
    or another FormatError if it is malformed.
    """
    payload = verify_envelope(envelope, ACTIVATION_TYPE, (activation_key,)).payload
    record = canonical.decode(
        payload, ActivationRecord, what="activation record", error=InvalidRecordError
    )
    try:
        parse_tenant_id(record.tenant)
        parse_digest(record.digest)
    except InvalidNameError as invalid:
        raise InvalidRecordError(f"activation record: {invalid}") from None
    return record
