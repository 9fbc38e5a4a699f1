"""An engine that speaks vLLM's OpenAI dialect, and misbehaves on request.

It records what it was sent and when its client hung up; what it does next is a value:
`engine.behaviour = Wedged(after_frames=2)`.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send


@dataclass(frozen=True)
class Normal:
    """Answers with these tokens, at this pace."""

    tokens: tuple[str, ...] = ("Hello", ",", " world", "!")
    first_s: float = 0.0
    gap_s: float = 0.0


@dataclass(frozen=True)
class Cut:
    """Closes the connection in the middle of a stream."""

    after_frames: int = 2


@dataclass(frozen=True)
class EndsEarly:
    """Ends the stream properly, and too early: no `[DONE]`."""

    after_frames: int = 2


@dataclass(frozen=True)
class Wedged:
    """Goes silent, before the head of its answer when `after_frames` is None."""

    after_frames: int | None = 2


@dataclass(frozen=True)
class Malformed:
    """Sends a frame that is not what it should be."""

    after_frames: int = 2
    frame: bytes = b"data: {not json\n\n"


@dataclass(frozen=True)
class Status:
    """Refuses."""

    status: int
    message: str = "refused"
    param: str | None = None


@dataclass(frozen=True)
class RawBody:
    """Answers 200 with a body that may be anything."""

    body: bytes


@dataclass(frozen=True)
class StreamError:
    """Fails in the stream, as vLLM does: an error event, then `[DONE]`."""

    after_frames: int = 2
    status: int = 500
    message: str = "EngineCore encountered an issue"


Behaviour = Normal | Cut | EndsEarly | Wedged | Malformed | Status | RawBody | StreamError


@dataclass
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw: bytes


@dataclass
class FakeEngine:
    """The ASGI application."""

    behaviour: Behaviour = field(default_factory=Normal)
    requests: list[Received] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)
    hung_up_at: float = 0.0
    finished: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        """Forget everything."""
        self.behaviour = Normal()
        self.requests.clear()
        for event in (self.begun, self.hung_up, self.finished):
            event.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as scripted."""
        raw = await _read(receive)
        received = Received(
            path=scope["path"],
            headers={name.decode(): value.decode() for name, value in scope["headers"]},
            body=json.loads(raw),
            raw=raw,
        )
        self.requests.append(received)
        self.begun.set()
        answer = asyncio.ensure_future(self._answer(received, send))
        watcher = asyncio.ensure_future(self._watch(receive))
        await asyncio.wait((answer, watcher), return_when=asyncio.FIRST_COMPLETED)
        for task in (answer, watcher):
            task.cancel()
        await asyncio.gather(answer, watcher, return_exceptions=True)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self.finished.is_set():
            self.hung_up_at = time.monotonic()
            self.hung_up.set()

    async def _answer(self, received: Received, send: Send) -> None:
        match self.behaviour:
            case Status(status, message, param):
                error = {"message": message, "type": "Error", "param": param, "code": status}
                await _send_json(send, {"error": error}, status=status)
            case RawBody(body):
                await _send_bytes(send, body)
            case Wedged(None):
                await asyncio.sleep(3600)
            case _ if received.body.get("stream"):
                await self._stream(received, send)
            case Wedged():
                await asyncio.sleep(3600)
            case _:
                await self._whole(received, send)
        self.finished.set()

    async def _whole(self, received: Received, send: Send) -> None:
        behaviour = self.behaviour if isinstance(self.behaviour, Normal) else Normal()
        await asyncio.sleep(behaviour.first_s + behaviour.gap_s * len(behaviour.tokens))
        if isinstance(self.behaviour, Cut):
            await _start(send, b"application/json")
            await send({"type": "http.response.body", "body": b'{"id":', "more_body": True})
            raise ConnectionResetError("scripted")
        text = "".join(behaviour.tokens)
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "stop"}
        if "chat" in received.path:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        body = self._envelope(received, choices=[choice])
        body["usage"] = _usage(len(behaviour.tokens))
        body["kv_transfer_params"] = {"engine": "inner"}
        await _send_json(send, body)

    async def _stream(self, received: Received, send: Send) -> None:
        await _start(send, b"text/event-stream; charset=utf-8")
        behaviour = self.behaviour
        limit = getattr(behaviour, "after_frames", None)
        count = 0
        async for frame in self._frames(received):
            if count == limit:
                break
            count += 1
            await _frame(send, frame)
        match behaviour:
            case Cut():
                raise ConnectionResetError("scripted")
            case Wedged():
                await asyncio.sleep(3600)
            case Malformed(_, raw):
                await send({"type": "http.response.body", "body": raw, "more_body": True})
            case StreamError(_, status, message):
                error = {"message": message, "type": "InternalServerError", "code": status}
                await _frame(send, {"error": error})
        if not isinstance(behaviour, EndsEarly):
            done = b"data: [DONE]\n\n"
            await send({"type": "http.response.body", "body": done, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _frames(self, received: Received) -> AsyncIterator[dict[str, Any]]:
        behaviour = self.behaviour if isinstance(self.behaviour, Normal) else Normal()
        options = received.body.get("stream_options") or {}
        chat = "chat" in received.path
        await asyncio.sleep(behaviour.first_s)
        if chat:
            yield self._chunk(received, {"role": "assistant", "content": ""}, None, 0, options)
        for count, token in enumerate(behaviour.tokens, start=1):
            last = count == len(behaviour.tokens)
            delta: Any = {"content": token} if chat else token
            yield self._chunk(received, delta, "stop" if last else None, count, options)
            if not last:
                await asyncio.sleep(behaviour.gap_s)
        if options.get("include_usage"):
            final = self._envelope(received, choices=[], chunk=True)
            yield {**final, "usage": _usage(len(behaviour.tokens))}

    def _chunk(
        self, received: Received, delta: Any, reason: str | None, count: int, options: Any
    ) -> dict[str, Any]:
        choice = {"index": 0, "logprobs": None, "finish_reason": reason}
        choice["text" if isinstance(delta, str) else "delta"] = delta
        chunk = self._envelope(received, choices=[choice], chunk=True)
        if options.get("continuous_usage_stats"):
            chunk["usage"] = _usage(count)
        return chunk

    def _envelope(
        self, received: Received, *, choices: list[Any], chunk: bool = False
    ) -> dict[str, Any]:
        chat = "chat" in received.path
        kind = ("chat.completion" if chat else "text_completion") + (
            ".chunk" if chat and chunk else ""
        )
        return {
            "id": "chatcmpl-1" if chat else "cmpl-1",
            "object": kind,
            "created": 1700000000,
            "model": received.body["model"],
            "choices": choices,
        }


def _usage(completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": 7,
        "completion_tokens": completion,
        "total_tokens": 7 + completion,
    }


async def _read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


async def _start(send: Send, media_type: bytes, status: int = 200) -> None:
    headers = [(b"content-type", media_type)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _frame(send: Send, data: dict[str, Any]) -> None:
    body = b"data: " + json.dumps(data).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _send_json(send: Send, data: dict[str, Any], *, status: int = 200) -> None:
    await _send_bytes(send, json.dumps(data).encode(), status=status)


async def _send_bytes(send: Send, body: bytes, *, status: int = 200) -> None:
    await _start(send, b"application/json", status)
    await send({"type": "http.response.body", "body": body, "more_body": False})
