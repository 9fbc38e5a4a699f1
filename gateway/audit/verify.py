"""Checks a chain of audit records, offline, from the database or from an export.

The rules, in this order: the first record is chained to the start; sequence numbers grow by
one; every record is in canonical form and says its own number; every hash is SHA-256(previous
hash ‖ record); the last record is the head's. A log that was rewritten together with its head
is consistent with itself: only a head noted earlier and kept elsewhere gives that away, which
every later log must contain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from gateway.audit.export import bound_line, read_bounds, read_pages, record_line
from gateway.audit.record import AuditHead, ChainedRecord, chain_hash
from gateway.db.engine import Database
from gateway.errors import GatewayError

MAX_LINE_BYTES = 64 * 1024
"""Far above any record, whose every member is bounded."""

_RECORD_LINE = re.compile(rb'\{"hash":"(?P<hash>[0-9a-f]{64})","record":(?P<record>\{.*\})\}\n')


class AuditTamperedError(GatewayError):
    """The log is not what was written: says at which record, what was expected and found."""

    code = "audit_tampered"


class ChainVerifier:
    """Follows a chain record by record; sans-IO, in constant memory."""

    def __init__(self, start: AuditHead, noted: AuditHead | None = None) -> None:
        """`noted` is a head that the chain is known to have had at some time.

        Raises AuditTamperedError if what begins at `start` cannot contain it.
        """
        self._head = start
        self._noted = noted
        if noted is not None and noted.sequence <= start.sequence:
            self._compare(noted, start)

    def feed(self, record: ChainedRecord) -> None:
        """Accept the next record; raises AuditTamperedError."""
        expected = self._head.sequence + 1
        if record.sequence != expected:
            raise AuditTamperedError(f"expected record {expected}, got record {record.sequence}")
        if _own_sequence(record.record) != expected:
            raise AuditTamperedError(f"record {expected} says that it is another one")
        if chain_hash(self._head.hash, record.record) != record.hash:
            raise AuditTamperedError(f"record {expected} or its hash was changed")
        self._head = AuditHead(expected, record.hash)
        if self._noted is not None and self._noted.sequence == expected:
            self._compare(self._noted, self._head)

    def finish(self, head: AuditHead) -> AuditHead:
        """Return the head if the chain ends there; raises AuditTamperedError."""
        if self._head != head:
            raise AuditTamperedError(
                f"the log ends at record {self._head.sequence}, its head is {head.sequence}"
            )
        if self._noted is not None and self._noted.sequence > head.sequence:
            self._compare(self._noted, head)
        return head

    @staticmethod
    def _compare(noted: AuditHead, found: AuditHead) -> None:
        if noted != found:
            raise AuditTamperedError(
                f"expected the noted head {noted.sequence} {noted.hash.hex()}, "
                f"got {found.sequence} {found.hash.hex()}"
            )


def verify_export(lines: Iterable[bytes], *, noted: AuditHead | None = None) -> AuditHead:
    """Return the head of an exported log whose every byte is in place.

    `noted`, a head of earlier that was kept elsewhere, also detects a log that was cut short or
    rewritten together with its head. Raises AuditTamperedError.
    """
    stream = iter(lines)
    verifier = ChainVerifier(_parse_bound("start", next(stream, b"")), noted)
    line = next(stream, b"")
    sequence = 0
    while line.startswith(b'{"hash"'):
        record = _parse_record(line)
        verifier.feed(record)
        sequence = record.sequence
        line = next(stream, b"")
    head = _parse_bound("head", line)
    if next(stream, None) is not None:
        raise AuditTamperedError(f"the export goes on behind its head, after record {sequence}")
    return verifier.finish(head)


async def verify_database(database: Database, *, noted: AuditHead | None = None) -> AuditHead:
    """Return the head of the log in the database; `noted` as for verify_export.

    Raises AuditTamperedError, AuditUnavailableError (the head's row is gone) and
    StoreUnavailableError.
    """
    start, head = await read_bounds(database, after=0)
    verifier = ChainVerifier(start, noted)
    async for page in read_pages(database, after=-(2**62), until=head.sequence):
        for record in page:
            verifier.feed(record)
    await _nothing_behind(database)
    return verifier.finish(head)


async def _nothing_behind(database: Database) -> None:
    """Refuse records behind the head, unless the chain grew to them while we were reading."""
    _, now = await read_bounds(database, after=0)
    async for page in read_pages(database, after=now.sequence, until=2**62):
        newest = (await read_bounds(database, after=0))[1].sequence
        for record in page:
            if record.sequence > newest:
                raise AuditTamperedError(f"record {record.sequence} is behind the log's head")
        return


def _own_sequence(record: bytes) -> int | None:
    """Return the number that a record says it has, None unless it is in canonical form."""
    try:
        members = msgspec.json.decode(record, type=dict[str, msgspec.Raw])
        value = msgspec.json.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if msgspec.json.encode(value, order="sorted") != record or "sequence" not in members:
        return None
    sequence = value["sequence"]
    return sequence if isinstance(sequence, int) else None


def _parse_record(line: bytes) -> ChainedRecord:
    match = _RECORD_LINE.fullmatch(line) if len(line) <= MAX_LINE_BYTES else None
    sequence = _own_sequence(match["record"]) if match else None
    if match is None or sequence is None:
        raise AuditTamperedError("a line of the export is not a record in canonical form")
    record = ChainedRecord(sequence, match["record"], bytes.fromhex(match["hash"].decode()))
    if record_line(record) != line:
        raise AuditTamperedError(f"the line of record {sequence} is not in canonical form")
    return record


def _parse_bound(name: str, line: bytes) -> AuditHead:
    try:
        value = msgspec.json.decode(line, type=dict[str, _Bound])
        bound = AuditHead(value[name].sequence, bytes.fromhex(value[name].hash))
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, ValueError) as error:
        raise AuditTamperedError(f"expected the export's {name} line, got another") from error
    if bound_line(name, bound) != line:
        raise AuditTamperedError(f"the export's {name} line is not in canonical form")
    return bound


class _Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hash: str
    sequence: int
