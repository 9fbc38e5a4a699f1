"""Activation records: signed by the gateway, read back as they were, or refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from adapter_store import canonical, errors
from adapter_store.activation import (
    MAX_RECORD_BYTES,
    ActivationRecord,
    sign_activation,
    verify_activation,
)
from adapter_store.tssp.format import ACTIVATION_TYPE, MANIFEST_TYPE
from adapter_store.tssp.signing import PublisherPrivateKey, sign_envelope
from adapter_store.types import Digest, TenantId


@pytest.fixture(scope="module")
def gateway() -> PublisherPrivateKey:
    return PublisherPrivateKey.generate()


@pytest.fixture(scope="module")
def record() -> ActivationRecord:
    return ActivationRecord(
        tenant=TenantId("acme"),
        digest=Digest("d" * 64),
        epoch=3,
        state="active",
        publisher=PublisherPrivateKey.generate().public_key,
        issued_at=datetime(2026, 11, 23, tzinfo=UTC),
        expires_at=datetime(2026, 11, 24, microsecond=5, tzinfo=UTC),
    )


def test_a_record_is_read_as_it_was_signed(
    gateway: PublisherPrivateKey, record: ActivationRecord
) -> None:
    envelope = sign_activation(record, gateway)
    assert verify_activation(envelope, gateway.public_key) == record
    assert len(envelope) < MAX_RECORD_BYTES


def test_only_the_gateways_key_counts(
    gateway: PublisherPrivateKey, record: ActivationRecord
) -> None:
    envelope = sign_activation(record, PublisherPrivateKey.generate())
    with pytest.raises(errors.UnknownSignerError):
        verify_activation(envelope, gateway.public_key)


def test_a_signed_manifest_is_no_activation(gateway: PublisherPrivateKey) -> None:
    envelope = sign_envelope(MANIFEST_TYPE, b"{}", gateway)
    with pytest.raises(errors.InvalidEnvelopeError):
        verify_activation(envelope, gateway.public_key)


@pytest.mark.parametrize(
    "change",
    [
        {"state": "paused"},
        {"epoch": -1},
        {"epoch": 10**9},
        {"epoch": "0"},
        {"tenant": "../acme"},
        {"digest": "D" * 64},
        {"issued_at": "yesterday"},
        {"issued_at": "2026-11-23T00:00:00"},
        {"publisher": {}},
        {"extra": 1},
    ],
)
def test_a_malformed_record_is_refused_even_when_signed(
    gateway: PublisherPrivateKey, record: ActivationRecord, change: dict[str, Any]
) -> None:
    members = json.loads(canonical.encode(record))
    verify_activation(
        sign_envelope(ACTIVATION_TYPE, canonical.encode(members), gateway), gateway.public_key
    )
    envelope = sign_envelope(ACTIVATION_TYPE, canonical.encode(members | change), gateway)
    with pytest.raises(errors.InvalidRecordError):
        verify_activation(envelope, gateway.public_key)
