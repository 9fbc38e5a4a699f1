"""The engine's answers, made the tenant's: its own alias and numbers, and no engine names.

Pure functions over bytes. Members that are passed on keep their bytes; only the top level of an
answer is taken apart. What is not on the list of members stays with the gateway.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gateway.errors import (
    EngineFailedError,
    GatewayError,
    InvalidRequestError,
    OverloadedError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)

_PASSED: Final = frozenset(
    {
        "id",
        "object",
        "created",
        "model",
        "choices",
        "usage",
        "system_fingerprint",
        "prompt_logprobs",
        "prompt_token_ids",
    }
)

_MAX_REASON_CHARS = 500
_ENGINE_NAME = re.compile(r"ts-[a-z0-9-]+-[0-9a-f]{64}-[0-9]+")
_PATH = re.compile(r"(?<![\w.])/(?:[\w.@+-]+/)+[\w.@+-]*")


class Usage(msgspec.Struct, frozen=True):
    """What the engine says it counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Choice(msgspec.Struct, frozen=True):
    index: int = 0
    finish_reason: str | None = None


class _EngineError(msgspec.Struct, frozen=True):
    message: str = ""
    type: str | None = None
    param: str | None = None
    code: int | str | None = None


class _ErrorEnvelope(msgspec.Struct, frozen=True):
    error: _EngineError


_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_USAGE = msgspec.json.Decoder(Usage | None)
_CHOICES = msgspec.json.Decoder(list[_Choice])
_ERROR = msgspec.json.Decoder(_ErrorEnvelope)
_ENCODER = msgspec.json.Encoder()


@dataclass(slots=True)
class Tally:
    """Counts one request's tokens while they pass, so that a cut stream is counted exactly."""

    choices_per_prompt: int = 1
    finish_reasons: dict[int, str] = field(default_factory=dict)
    _total: Usage | None = None
    _by_choice: dict[int, Usage] = field(default_factory=dict)

    def note(self, choices: list[_Choice], usage: Usage | None) -> None:
        """Take in one chunk: the last one, without choices, has the totals."""
        for choice in choices:
            if choice.finish_reason is not None:
                self.finish_reasons[choice.index] = choice.finish_reason
        if usage is None:
            return
        if len(choices) == 1:
            self._by_choice[choices[0].index] = usage
        else:
            self._total = usage

    def close(self, choices: list[_Choice], usage: Usage | None) -> None:
        """Take in a whole answer."""
        self.note(choices, None)
        self._total = usage

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; each prompt counts once for all of its choices."""
        if self._total is not None:
            return self._total.prompt_tokens
        return sum(
            usage.prompt_tokens
            for index, usage in self._by_choice.items()
            if index % self.choices_per_prompt == 0
        )

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far."""
        if self._total is not None:
            return self._total.completion_tokens
        return sum(usage.completion_tokens for usage in self._by_choice.values())

    @property
    def finish_reason(self) -> str | None:
        """The finish reason of the first choice, which is the only one of almost every request."""
        return self.finish_reasons.get(0)


def rewrite_answer(body: bytes, alias: str, tally: Tally) -> bytes:
    """Return a whole answer under the client's own name for the model."""
    members = _decode_members(body)
    choices, usage = _decode_counts(members)
    tally.close(choices, usage)
    return _encode_members(members, alias)


def rewrite_chunk(data: bytes, alias: str, tally: Tally, *, with_usage: bool) -> bytes | None:
    """Return one chunk of a stream under the client's own name; None if the client gets none.

    Raises the error that the chunk carries, or UpstreamProtocolError.
    """
    members = _decode_members(data)
    if "error" in members:
        raise engine_error(data, status=None, alias=alias)
    choices, usage = _decode_counts(members)
    tally.note(choices, usage)
    if choices:
        members.pop("usage", None)  # the running count is for the gateway alone
    elif not with_usage:
        return None
    return _encode_members(members, alias)


def engine_error(body: bytes, *, status: int | None, alias: str) -> GatewayError:
    """Return the engine's error as ours; `status` None takes the code inside an event.

    Only what the engine says about the caller's own parameters is repeated, and names of engines
    and files are taken out of it first.
    """
    try:
        error = _ERROR.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = _EngineError()
    code = status if status is not None else error.code
    if code in {400, 422}:
        return InvalidRequestError(_clean(error.message, alias), param=error.param)
    if code in {429, 503}:
        return OverloadedError("The model is busy. Please try again shortly.")
    if code == 504:
        return UpstreamTimeoutError("the engine timed out")
    # Everything else, and 404: the gateway asked for what it had resolved, so it should be there.
    return EngineFailedError("the engine failed the request")


def _decode_members(data: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _MEMBERS.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("expected a JSON object") from error


def _decode_counts(members: dict[str, msgspec.Raw]) -> tuple[list[_Choice], Usage | None]:
    if "choices" not in members:
        raise UpstreamProtocolError("expected 'choices' in an answer")
    try:
        choices = _CHOICES.decode(members["choices"])
        usage = _USAGE.decode(members["usage"]) if "usage" in members else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("expected choices and usage of the OpenAI shape") from error
    return choices, usage


def _encode_members(members: dict[str, msgspec.Raw], alias: str) -> bytes:
    passed: dict[str, msgspec.Raw | str] = {
        name: value for name, value in members.items() if name in _PASSED
    }
    passed["model"] = alias
    return _ENCODER.encode(passed)


def _clean(message: str, alias: str) -> str:
    """Take names of engines and files out of a message."""
    without_names = _ENGINE_NAME.sub(alias, message)
    return _PATH.sub("[path]", without_names)[:_MAX_REASON_CHARS] or "The request was refused."
