"""The offline audit log: a chain in which any change shows, and no room for content."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import msgspec
import pytest

from runtime.audit import AuditError, AuditEvent, JsonlAuditLog, read_audit_log


def written(path: Path, count: int = 4) -> list[bytes]:
    log = JsonlAuditLog(path)
    for number in range(count):
        log.append(AuditEvent(kind="INFERENCE_START", request_id=f"r{number}", prompts=1))
    return path.read_bytes().splitlines(keepends=True)


def test_records_are_read_back_in_order_and_a_log_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path)
    JsonlAuditLog(path).append(AuditEvent(kind="INFERENCE_COMPLETE", outcome="ok"))

    records = list(read_audit_log(path))

    assert [record.sequence for record in records] == list(range(5))
    assert records[4].previous == records[3].hash
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("change", ["edited", "deleted", "reordered", "inserted", "cut"])
def test_any_change_breaks_the_chain(tmp_path: Path, change: str) -> None:
    path = tmp_path / "audit.jsonl"
    lines = written(path)
    list(read_audit_log(path))  # control: unchanged, it verifies
    path.write_bytes(
        b"".join(
            {
                "edited": [lines[0], lines[1].replace(b'"r1"', b'"rx"'), *lines[2:]],
                "deleted": [lines[0], *lines[2:]],
                "reordered": [lines[0], lines[2], lines[1], lines[3]],
                "inserted": [lines[0], lines[0], *lines[1:]],
                "cut": [*lines[:3], lines[3][:40]],
            }[change]
        )
    )

    with pytest.raises(AuditError):
        list(read_audit_log(path))
    with pytest.raises(AuditError):
        JsonlAuditLog(path)


def test_text_does_not_fit_into_an_event() -> None:
    event = {"kind": "INFERENCE_START", "request_id": "What is my balance?"}
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(event), type=AuditEvent)
    with pytest.raises(AuditError):
        AuditEvent(kind="INFERENCE_START", request_id="What is my balance?")


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    log = JsonlAuditLog(tmp_path / "no such folder" / "audit.jsonl")

    with pytest.raises(AuditError):
        log.append(AuditEvent(kind="INFERENCE_START"))
