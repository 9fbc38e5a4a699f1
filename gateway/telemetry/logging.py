"""Logs: one JSON object a line, for our events and for libraries', with secrets taken out."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec
import structlog

REDACTED: Final = "[redacted]"

_SECRETS: Final = re.compile(
    r"tsk_[a-z]{1,12}_[0-9A-Za-z_]+"  # an API key, whole or cut
    r"|(?i:bearer)\s+[^\s\"]+"
    r"|ts-[a-z0-9-]+-[0-9a-f]{64}-[0-9]+"  # an engine name
    r"|://[^/\s:@\"]+:[^/\s@\"]+@"  # a password in a URL
)

_CONTENT: Final = frozenset(
    {"prompt", "messages", "content", "body", "authorization", "api_key", "secret", "password"}
)
"""Fields that no event may have; one that has, loses their values."""

_NOISY: Final = ("httpx2", "httpcore2", "aiosqlite", "alembic")
_encoder = msgspec.json.Encoder(enc_hook=repr)


def render(event: MutableMapping[str, Any]) -> str:
    """Return an event as one line of JSON, without content and without secrets."""
    for name in _CONTENT.intersection(event):
        event[name] = REDACTED
    raised = event.pop("exc_info", None)
    if isinstance(raised, BaseException):
        event["exception"] = type(raised).__name__  # its text and its frames may hold anything
    event["timestamp"] = datetime.now(UTC).isoformat(timespec="milliseconds")
    return _SECRETS.sub(REDACTED, _encoder.encode(event).decode())


def configure_logging(level: str, stream: TextIO = sys.stderr) -> None:
    """Send every log of this process to `stream` as JSON lines. Called once, by the command."""
    structlog.configure(
        processors=[structlog.processors.add_log_level, _render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_LibraryFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"  # its lines hold URLs
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _render(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    return render(event)


class _LibraryFormatter(logging.Formatter):
    """Gives the lines of libraries the same shape."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        event: dict[str, Any] = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if record.exc_info is not None:
            event["exc_info"] = record.exc_info[1]
        return render(event)
