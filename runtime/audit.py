"""What the offline engine did, as a hash chain in a file: who asked and how much, never what."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Protocol

import msgspec
import rfc8785

from runtime.errors import PoolError

GENESIS = "0" * 64
MAX_RECORD_BYTES = 4096

EventKind = Literal["TSSP_PACKAGE_LOADED", "INFERENCE_START", "INFERENCE_COMPLETE"]
LABEL = re.compile(r"[A-Za-z0-9._:@-]{0,160}")
Label = Annotated[str, msgspec.Meta(pattern=rf"^{LABEL.pattern}\Z")]
"""Ids, engine names and outcomes: there is no member in which a prompt would fit."""
Count = Annotated[int, msgspec.Meta(ge=0)]


class AuditError(PoolError):
    """The audit log cannot be written, or is not what was written. Nothing is served then."""

    code = "audit_unavailable"


class AuditEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that happened."""

    kind: EventKind
    adapter: Label = ""
    request_id: Label = ""
    outcome: Label = ""
    prompts: Count = 0
    prompt_tokens: Count = 0
    completion_tokens: Count = 0

    def __post_init__(self) -> None:
        for label in (self.adapter, self.request_id, self.outcome):
            if not LABEL.fullmatch(label):
                raise AuditError("expected ids of at most 160 of A-Z, a-z, 0-9 and ._:@-")


class AuditRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An event in its place: `hash` is SHA-256 of the previous hash and the rest, canonically."""

    sequence: Count
    time: str
    event: AuditEvent
    previous: str
    hash: str


class AuditSink(Protocol):
    """Where events go; an event that is not kept must raise AuditError."""

    def append(self, event: AuditEvent) -> None: ...


class NoAudit:
    """Keeps nothing."""

    def append(self, event: AuditEvent) -> None:
        """Do nothing."""


class JsonlAuditLog:
    """A hash-chained file, one record a line, on disk before `append` returns. Thread-safe."""

    def __init__(
        self, path: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Continue the log at `path`, or begin one; raises AuditError if its chain is broken."""
        self._path = path
        self._now = now
        self._lock = threading.Lock()
        self._sequence, self._head = 0, GENESIS
        if path.exists():
            for record in read_audit_log(path):
                self._sequence, self._head = record.sequence + 1, record.hash

    def append(self, event: AuditEvent) -> None:
        """Write the event and wait for the disk."""
        with self._lock:
            record = _chained(event, self._sequence, self._now().isoformat(), self._head)
            self._write(msgspec.json.encode(record) + b"\n")
            self._sequence, self._head = record.sequence + 1, record.hash

    def _write(self, line: bytes) -> None:
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.write(file, line) != len(line):
                    raise AuditError("the audit record was written only in part")
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise AuditError(f"the audit log cannot be written: {error.strerror}") from error


def read_audit_log(path: Path) -> Iterator[AuditRecord]:
    """Yield the records of a log in order; raises AuditError where its chain is broken."""
    previous = GENESIS
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_RECORD_BYTES), b"")):
            try:
                record = msgspec.json.decode(line, type=AuditRecord)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise AuditError(f"record {number} of the audit log does not parse") from error
            if record != _chained(record.event, number, record.time, previous):
                raise AuditError(f"record {number} of the audit log is not the one written")
            previous = record.hash
            yield record


def _chained(event: AuditEvent, sequence: int, time: str, previous: str) -> AuditRecord:
    body = {"sequence": sequence, "time": time, "event": msgspec.to_builtins(event)}
    digest = hashlib.sha256(previous.encode() + rfc8785.dumps(body)).hexdigest()
    return AuditRecord(sequence=sequence, time=time, event=event, previous=previous, hash=digest)
