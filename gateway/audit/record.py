"""What an audit record may say, its canonical bytes, and how records chain."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from adapter_store.types import TenantId

GENESIS = bytes(32)
"""What the first record is chained to."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+/-]{0,159}")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MAX_COUNT = 2**53 - 1  # the largest integer that RFC 8785 represents exactly


class AuditKind(StrEnum):
    """What happened."""

    REQUEST_STARTED = "request.started"
    REQUEST_COMPLETED = "request.completed"
    REQUEST_REFUSED = "request.refused"  # before it was forwarded
    ADAPTER_UPLOADED = "adapter.uploaded"
    ADAPTER_REFUSED = "adapter.refused"
    ADAPTER_ACTIVATED = "adapter.activated"
    ADAPTER_REJECTED = "adapter.rejected"
    ADAPTER_RETIRED = "adapter.retired"
    ADAPTER_REVOKED = "adapter.revoked"
    ADAPTER_DELETED = "adapter.deleted"
    ADAPTER_ENGINE_FAILED = "adapter.engine_failed"
    KEY_ISSUED = "key.issued"
    KEY_ROTATED = "key.rotated"
    KEY_REVOKED = "key.revoked"
    TENANT_CREATED = "tenant.created"
    TENANT_DISABLED = "tenant.disabled"
    PUBLISHER_KEY_REGISTERED = "publisher_key.registered"
    PUBLISHER_KEY_REVOKED = "publisher_key.revoked"


class AuditOutcome(StrEnum):
    """How it ended."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"
    ABORTED = "aborted"  # the client went away


class AuditCount(StrEnum):
    """The numbers that a record may carry."""

    PROMPT_TOKENS = "prompt_tokens"
    COMPLETION_TOKENS = "completion_tokens"
    CACHED_TOKENS = "cached_tokens"
    STATUS = "status"
    DURATION_MS = "duration_ms"
    SIZE_BYTES = "size_bytes"
    EPOCH = "epoch"
    GENERATION = "generation"
    VERSION = "version"


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing that happened, free of content by type: identifiers, enums and counts only.

    `actor` is a key id; `subject` is what it was done to: a digest, a key id, a tenant or
    `name@version`; `code` is an error code or an engine's finish reason. Raises ValueError for
    anything that is not an identifier, so that no prompt can slip in.
    """

    kind: AuditKind
    outcome: AuditOutcome = AuditOutcome.OK
    actor: str | None = None
    tenant: TenantId | None = None
    subject: str | None = None
    request_id: str | None = None
    code: str | None = None
    counts: Mapping[AuditCount, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("actor", "tenant", "subject", "request_id"):
            value = getattr(self, name)
            if value is not None and not _IDENTIFIER.fullmatch(value):
                raise ValueError(f"expected an identifier as the audit event's {name}")
        if self.code is not None and not _CODE.fullmatch(self.code):
            raise ValueError("expected a code such as 'invalid_request' in the audit event")
        if any(not 0 <= count <= _MAX_COUNT for count in self.counts.values()):
            raise ValueError("expected audit counts between 0 and 2^53 - 1")


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Where a chain ends: the number of records, and the last one's hash."""

    sequence: int
    hash: bytes


EMPTY = AuditHead(sequence=0, hash=GENESIS)
"""The head of a log without records."""


@dataclass(frozen=True, slots=True)
class ChainedRecord:
    """A record in its place: what is stored, and all that is needed to check it."""

    sequence: int
    record: bytes
    hash: bytes


def chain(head: AuditHead, at: datetime, event: AuditEvent) -> ChainedRecord:
    """Return `event`, which happened `at`, as the record that follows `head`."""
    sequence = head.sequence + 1
    record = canonical_bytes(sequence, at, event)
    return ChainedRecord(sequence=sequence, record=record, hash=chain_hash(head.hash, record))


def chain_hash(previous: bytes, record: bytes) -> bytes:
    """Return SHA-256(previous hash ‖ record): both lengths are unambiguous, the first is 32."""
    return hashlib.sha256(previous + record).digest()


def canonical_bytes(sequence: int, at: datetime, event: AuditEvent) -> bytes:
    """Return the record in RFC 8785 form.

    Everything in it is ASCII and every number a safe integer, so sorted keys and no spaces are
    that form already.
    """
    members: dict[str, object] = {
        "actor": event.actor,
        "at": at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "code": event.code,
        "counts": dict(event.counts) or None,
        "kind": event.kind,
        "outcome": event.outcome,
        "request_id": event.request_id,
        "sequence": sequence,
        "subject": event.subject,
        "tenant": event.tenant,
        "v": 1,
    }
    present = {name: value for name, value in members.items() if value is not None}
    return msgspec.json.encode(present, order="sorted")
