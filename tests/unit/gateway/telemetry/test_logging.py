"""What a log line may say."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from gateway.telemetry.logging import REDACTED, configure_logging, render

KEY = "tsk_live_0123456789abcdef_" + "s" * 43 + "abcdef"
ENGINE_NAME = f"ts-acme-corp-{'0a' * 32}-12"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("info", stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"key={KEY}&x=1",
        f"Authorization: Bearer {KEY}",
        "bearer abc.def",
        ENGINE_NAME,
        f"model {ENGINE_NAME} failed",
        "postgresql://user:hunter2@db/x",
        KEY[:40],
    ],
)
def test_secrets_are_taken_out_wherever_they_are(text: str) -> None:
    shown = render({"a": text, "b": [text], "c": {"d": (text,)}, "event": text})
    for secret in (KEY[:40], "abc.def", ENGINE_NAME, "hunter2"):
        assert secret not in shown
    assert REDACTED in shown


def test_what_is_no_secret_stays() -> None:
    event = {"event": "request", "status": 200, "tenant": "t-12ab", "digest": "0a" * 32}
    shown = json.loads(render(dict(event)))
    assert shown.pop("timestamp")
    assert shown == event


@pytest.mark.parametrize("name", ["prompt", "messages", "content", "authorization"])
def test_fields_for_content_lose_their_values(name: str) -> None:
    assert json.loads(render({name: "anything"}))[name] == REDACTED


def test_our_events_are_json_lines(lines: io.StringIO) -> None:
    structlog.get_logger("gateway.x").info("request", status=200, key=KEY)
    event = json.loads(lines.getvalue())
    assert event["event"] == "request"
    assert (event["level"], event["status"]) == ("info", 200)
    assert KEY not in lines.getvalue()


def test_a_librarys_lines_are_json_too_and_exceptions_lose_their_text(lines: io.StringIO) -> None:
    try:
        raise ValueError(f"no such key {KEY}")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application %s", KEY)
    event = json.loads(lines.getvalue())
    assert event["exception"] == "ValueError"
    assert "Traceback" not in lines.getvalue()
    assert KEY not in lines.getvalue()


def test_uvicorns_access_lines_hold_urls_and_are_dropped(lines: io.StringIO) -> None:
    logging.getLogger("uvicorn.access").warning("GET /v1/secret")
    assert lines.getvalue() == ""


def test_a_value_that_json_does_not_know_does_not_break_the_line() -> None:
    assert "object object" in json.loads(render({"event": "x", "value": object()}))["value"]


def test_lines_below_the_level_are_not_written(lines: io.StringIO) -> None:
    structlog.get_logger().debug("detail")
    logging.getLogger("x").debug("detail")
    assert lines.getvalue() == ""
