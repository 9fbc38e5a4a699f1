"""A pool's control interface, as ASGI: scripted answers, and what it was asked."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

FINGERPRINT = "f" * 64


def good_answers() -> dict[str, tuple[int, Any]]:
    """Return what a healthy pool answers, by the end of the path."""
    return {
        "/base-model": (
            200,
            {"id": "tiny", "fingerprint": FINGERPRINT, "max_lora_rank": 8, "max_model_len": 512},
        ),
        "/ingest-keys/acme": (
            200,
            {"key_id": "k1", "algorithm": "hpke-xwing", "public_key": "AAAA"},
        ),
        "/adapters/admit": (200, {"report": {"modules": 2}}),
        "/adapters/evict": (200, {"resident": False}),
        "/health": (200, {"status": "ready"}),
    }


@dataclass
class FakePoolProcess:
    """The ASGI application. An answer that is bytes is sent as it is."""

    answers: dict[str, tuple[int, Any]] = field(default_factory=good_answers)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    delay_s: float = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        path = scope["path"].removeprefix("/control/v1")
        self.asked.append((scope["method"], path, json.loads(body) if body else None))
        await asyncio.sleep(self.delay_s)
        missing = (404, {"error": {"code": "not_found", "message": "no such route"}})
        status, answer = self.answers.get(path, missing)
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": raw})
