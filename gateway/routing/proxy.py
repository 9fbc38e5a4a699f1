"""Forwards one inference request and brings the answer back.

The order is fixed: resolve, wait for a permit, write the audit record, forward, and, however that
ends, record the end. Nothing is retried after the first byte; from then on a failure is an event
in the stream, which ends without `[DONE]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
from msgspec import UNSET
from starlette.types import Receive, Send

from adapter_store.types import TenantId
from gateway.admission.concurrency import Permits
from gateway.api.context import RequestContext
from gateway.api.openai_types import GenerationRequest, StreamOptions, drop_foreign_fields
from gateway.api.problems import error_envelope
from gateway.errors import EngineFailedError, GatewayError, UpstreamProtocolError
from gateway.routing import sse
from gateway.routing.answers import Tally, engine_error, rewrite_answer, rewrite_chunk
from gateway.routing.cache_salt import CacheSalts
from gateway.routing.disconnect import ClientGoneError, until_disconnect
from gateway.routing.engine_client import EngineAnswer, EngineClient
from gateway.routing.recorder import Exchange, Recorder
from gateway.routing.targets import AdapterDirectory, Target, Targets

_log = structlog.get_logger(__name__)

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_MAX_ERROR_BYTES: Final = 64 * 1024
_OK: Final = 200

_JSON_HEADERS: Final = ((b"content-type", b"application/json"),)
_STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # nginx would otherwise collect frames
)


@dataclass(frozen=True, slots=True)
class Call:
    """One decoded request of a tenant that may make it."""

    endpoint: str
    path: str
    tenant: TenantId
    request: GenerationRequest
    context: RequestContext


class InferenceProxy:
    """The way of every inference request."""

    def __init__(
        self,
        engine: EngineClient,
        targets: Targets,
        adapters: AdapterDirectory,
        permits: Permits,
        recorder: Recorder,
        salts: CacheSalts,
    ) -> None:
        self._engine = engine
        self._targets = targets
        self._adapters = adapters
        self._permits = permits
        self._recorder = recorder
        self._salts = salts
        self._encoder = msgspec.json.Encoder()

    async def serve(self, call: Call, receive: Receive, send: Send) -> None:
        """Answer `call`, whose body has been read.

        Raises GatewayError only while nothing has been sent, and ClientGoneError once the engine
        knows that the client is gone.
        """
        await until_disconnect(receive, send, lambda noting_send: self._serve(call, noting_send))

    async def _serve(self, call: Call, send: Send) -> None:
        async with AsyncExitStack() as permit:
            async with self._recorder.refusals(call.context, call.tenant):
                # 1. What does the name mean to this tenant?
                target = await self._targets.resolve(call.tenant, call.request.model)
                # 2. Wait for a turn.
                await permit.enter_async_context(self._permits.hold())
            exchange = Exchange(
                context=call.context,
                tenant=call.tenant,
                endpoint=call.endpoint,
                target=target,
                tally=Tally(choices_per_prompt=call.request.choices_per_prompt),
            )
            # 3. No record, no tokens.
            await self._recorder.started(exchange)
            try:
                # 4. Forward, and bring the answer back.
                await self._forward(call, exchange, send)
            except (asyncio.CancelledError, ClientGoneError):
                exchange.abort()
                raise
            except GatewayError as error:
                exchange.fail(error)
                raise
            finally:
                # 5. However it ended, say so.
                await self._recorder.completed(exchange)

    async def _forward(self, call: Call, exchange: Exchange, send: Send) -> None:
        wants_usage = call.request.wants_usage
        body = self._engine_body(call.request, call.tenant, exchange.target)
        try:
            async with self._engine.post(call.path, body) as answer:
                if answer.status != _OK:
                    text = await answer.read(_MAX_ERROR_BYTES)
                    raise engine_error(text, status=answer.status, alias=exchange.target.alias)
                if call.request.streams:
                    await self._stream(answer, exchange, send, with_usage=wants_usage)
                else:
                    await _send_whole(answer, exchange, send)
        except EngineFailedError:
            await self._renew(exchange.target)
            raise

    def _engine_body(self, request: GenerationRequest, tenant: TenantId, target: Target) -> bytes:
        """Turn the client's request into the gateway's own, in place."""
        drop_foreign_fields(request)
        request.model = target.engine_model
        request.cache_salt = self._salts.of(tenant, target.digest)
        # Running counts, so that a stream that is cut is counted exactly.
        request.stream_options = (
            StreamOptions(include_usage=True, continuous_usage_stats=True)
            if request.streams
            else UNSET
        )
        return self._encoder.encode(request)

    async def _stream(
        self, answer: EngineAnswer, exchange: Exchange, send: Send, *, with_usage: bool
    ) -> None:
        started = False
        try:
            async with aclosing(_relay(answer, exchange, with_usage=with_usage)) as frames:
                async for frame in frames:
                    if not started:
                        started = True
                        await _start(send, _STREAM_HEADERS)
                        self._recorder.first_frame(exchange)
                    await _send_body(send, frame, more=True)
        except GatewayError as error:
            if not started:
                raise
            exchange.fail(error)
            await self._end_with_error(error, exchange.target, send)
        else:
            exchange.succeed()
            await _send_body(send, b"", more=False)
            await answer.finish()

    async def _end_with_error(self, error: GatewayError, target: Target, send: Send) -> None:
        event = sse.encode_event(self._encoder.encode(error_envelope(error)))
        await _send_body(send, event, more=False)
        if isinstance(error, EngineFailedError):
            await self._renew(target)

    async def _renew(self, target: Target) -> None:
        if target.adapter is None:
            return
        try:
            await self._adapters.report_engine_failure(target.adapter)
        except GatewayError as error:  # the client is told of the engine's failure, not of this one
            _log.error("adapter_not_renewed", code=error.code)


async def _relay(
    answer: EngineAnswer, exchange: Exchange, *, with_usage: bool
) -> AsyncGenerator[bytes]:
    """Yield what the client gets, as it comes; raises GatewayError where the stream fails."""
    parser = sse.EventParser()
    alias, tally = exchange.target.alias, exchange.tally
    while chunk := await answer.next_chunk():
        ready = bytearray()
        done = False
        try:
            for data in parser.feed(chunk):
                if data == sse.DONE:
                    done = True
                    ready += sse.encode_event(data)
                    break
                rewritten = rewrite_chunk(data, alias, tally, with_usage=with_usage)
                if rewritten is not None:
                    ready += sse.encode_event(rewritten)
        except GatewayError:
            if ready:
                yield bytes(ready)  # what came whole before it is the client's
            raise
        if ready:
            yield bytes(ready)
        if done:
            return
    raise UpstreamProtocolError("the engine's stream ended without [DONE]")


async def _send_whole(answer: EngineAnswer, exchange: Exchange, send: Send) -> None:
    body = await answer.read(MAX_ANSWER_BYTES)
    rewritten = rewrite_answer(body, exchange.target.alias, exchange.tally)
    length = (b"content-length", str(len(rewritten)).encode())
    await _start(send, (*_JSON_HEADERS, length))
    await _send_body(send, rewritten, more=False)
    exchange.succeed()


async def _start(send: Send, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    await send({"type": "http.response.start", "status": _OK, "headers": list(headers)})


async def _send_body(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
