"""Logs: one JSON object a line, for our events and for libraries', with secrets taken out."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED: Final = "[redacted]"

_SECRETS: Final = re.compile(
    r"tsk_[a-z]{1,12}_[0-9A-Za-z_]+"  # an API key, whole or cut
    r"|(?i:bearer)\s+\S+"
    r"|ts-[a-z0-9-]+-[0-9a-f]{64}-[0-9]+"  # an engine name
    r"|://[^/\s:@]+:[^/\s@]+@"  # a password in a URL
)

_CONTENT: Final = frozenset(
    {"prompt", "messages", "content", "body", "authorization", "api_key", "secret", "password"}
)
"""Fields that no event may have; one that has, loses their values."""


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Take secrets and content out of every field of an event."""
    return {
        name: REDACTED if name in _CONTENT else _without_secrets(value)
        for name, value in event.items()
    }


def _without_secrets(value: Any) -> Any:
    match value:
        case str():
            return _SECRETS.sub(REDACTED, value)
        case list() | tuple():
            return [_without_secrets(item) for item in value]
        case dict():
            return {name: _without_secrets(item) for name, item in value.items()}
        case _:
            return value


def _name_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keep an exception's type alone: its text and its frames may hold anything."""
    raised = event.pop("exc_info", None)
    if isinstance(raised, tuple):
        raised = raised[1]
    if isinstance(raised, BaseException):
        event["exception"] = type(raised).__name__
    return event


def configure_logging(level: str, stream: TextIO = sys.stderr) -> None:
    """Send every log of this process to `stream` as JSON lines. Called once, by the command."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _name_exception,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"  # its lines hold URLs
    for name in ("httpx2", "httpcore2", "aiosqlite", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
