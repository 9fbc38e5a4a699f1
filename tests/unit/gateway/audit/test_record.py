"""Audit records are canonical, chained, and cannot carry content."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audit.record import (
    EMPTY,
    GENESIS,
    AuditCount,
    AuditEvent,
    AuditHead,
    AuditKind,
    AuditOutcome,
    canonical_bytes,
    chain,
)
from tests.unit.gateway.audit.events import event

AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def test_a_known_record_keeps_its_bytes_and_hash() -> None:
    """Logs that were written must go on verifying: neither may ever change."""
    record = chain(EMPTY, AT, event(7))
    assert record.record == (
        b'{"actor":"0123456789abcdef","at":"2026-01-02T03:04:05.000678Z","code":"stop",'
        b'"counts":{"completion_tokens":3,"prompt_tokens":7},"kind":"request.completed",'
        b'"outcome":"ok","request_id":"req-7","sequence":1,"subject":"' + b"a" * 64 + b'",'
        b'"tenant":"acme","v":1}'
    )
    assert record.hash == hashlib.sha256(GENESIS + record.record).digest()


IDENTIFIERS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@+/-]{0,159}", fullmatch=True)


@given(
    kind=st.sampled_from(AuditKind),
    outcome=st.sampled_from(AuditOutcome),
    actor=st.none() | IDENTIFIERS,
    subject=st.none() | IDENTIFIERS,
    request_id=st.none() | IDENTIFIERS,
    code=st.none() | st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True),
    counts=st.dictionaries(st.sampled_from(AuditCount), st.integers(0, 2**53 - 1)),
    sequence=st.integers(1, 2**53 - 1),
    at=st.datetimes(timezones=st.just(UTC)),
)
@settings(max_examples=200)
def test_every_record_is_in_rfc_8785_form(sequence: int, at: datetime, **members: Any) -> None:
    record = canonical_bytes(sequence, at, AuditEvent(**members))
    assert rfc8785.dumps(json.loads(record)) == record


def test_the_zone_of_a_time_does_not_show() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert canonical_bytes(1, elsewhere, event()) == canonical_bytes(1, AT, event())


def test_each_record_is_chained_to_the_one_before() -> None:
    first = chain(EMPTY, AT, event(1))
    second = chain(AuditHead(first.sequence, first.hash), AT, event(1))
    assert second.sequence == 2
    assert second.hash == hashlib.sha256(first.hash + second.record).digest()
    assert second.hash != chain(AuditHead(1, GENESIS), AT, event(1)).hash


PROSE = ["My password is hunter2", "line\nbreak", "", "é", "x" * 161, '{"a":1}', " x", "x\x00"]


@pytest.mark.parametrize("text", PROSE)
@pytest.mark.parametrize("member", ["actor", "tenant", "subject", "request_id", "code"])
def test_no_free_text_fits_into_an_event(member: str, text: str) -> None:
    with pytest.raises(ValueError, match="audit event") as refused:
        AuditEvent(AuditKind.REQUEST_STARTED, **{member: text})
    assert len(text) < 5 or text not in str(refused.value)


@pytest.mark.parametrize("count", [-1, 2**53])
def test_no_count_that_json_cannot_hold_fits_into_an_event(count: int) -> None:
    with pytest.raises(ValueError, match="audit counts"):
        AuditEvent(AuditKind.REQUEST_STARTED, counts={AuditCount.STATUS: count})
