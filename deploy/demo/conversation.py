"""Both tenants talk to the gateway with the official OpenAI SDK, and what is measured of it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from openai.types import Completion
from openai.types.chat import ChatCompletion

from deploy.demo.onboarding import Tenant
from gateway.cli.errors import CliError

_WARM_REQUESTS = 5
_STREAMS_PER_TENANT = 4
_STREAM_TOKENS = 96
_REPLY_TOKENS = 48
_SAMPLE_TEXTS = 12
# A small model repeats itself when it always says what is likeliest.
_SAMPLING: Final[dict[str, Any]] = {
    "temperature": 0.7,
    "seed": 1,
    "extra_body": {"repetition_penalty": 1.15},
}


@dataclass(frozen=True)
class Speaker:
    """A tenant with its SDK client, held-out text of its own, and something to ask."""

    tenant: Tenant
    client: AsyncOpenAI
    texts: Sequence[str]
    question: str
    opening: str


@dataclass(frozen=True)
class Likelihood:
    """Mean log-likelihood per token, in nats, of one tenant's held-out text."""

    base: float
    own: float
    other: float
    tokens: int


@dataclass(frozen=True)
class Talk:
    """What one tenant's conversation showed."""

    cold_ttft_ms: float  # time to the first token, with the adapter not yet in the engine
    warm_ttft_ms: float  # the same, median of five, with the adapter there
    opening: str
    reply: str  # to the question, as chat
    base_continuation: str  # of the opening, as a completion
    own_continuation: str
    likelihood: Likelihood


@dataclass(frozen=True)
class Throughput:
    """All streams of both tenants at once."""

    streams: int
    tokens: int
    tokens_per_s: float


def speaker(
    base_url: str, tenant: Tenant, texts: Sequence[str], *, question: str, opening: str
) -> Speaker:
    """A tenant ready to talk to the gateway at `base_url`."""
    client = AsyncOpenAI(
        base_url=f"{base_url}/v1",
        api_key=tenant.api_key,
        max_retries=0,
        timeout=120.0,
        # A proxy of the environment has no business between here and this machine.
        http_client=DefaultAsyncHttpxClient(trust_env=False),
    )
    return Speaker(tenant, client, texts[:_SAMPLE_TEXTS], question, opening)


async def talk(
    first: Speaker, second: Speaker, *, base_model: str
) -> tuple[Talk, Talk, Throughput]:
    """Let both talk, always at once."""
    async with first.client, second.client:
        cold = await asyncio.gather(_ttft_ms(first, 0), _ttft_ms(second, 0))
        warm = await asyncio.gather(_warm_ttft_ms(first), _warm_ttft_ms(second))
        replies = await asyncio.gather(_chat(first), _chat(second))
        base = await asyncio.gather(*(_complete(each, base_model) for each in (first, second)))
        own = await asyncio.gather(
            *(_complete(each, each.tenant.adapter) for each in (first, second))
        )
        likelihoods = await asyncio.gather(
            _likelihood(first, second, base_model), _likelihood(second, first, base_model)
        )
        throughput = await _throughput([first, second])
    openings = (first.opening, second.opening)
    one, two = (
        Talk(*measured)
        for measured in zip(cold, warm, openings, replies, base, own, likelihoods, strict=True)
    )
    return one, two, throughput


async def _ttft_ms(speaker: Speaker, number: int) -> float:
    """Milliseconds to the first token of a streamed chat with the tenant's own adapter."""
    started = time.perf_counter()
    stream = await speaker.client.chat.completions.create(
        model=speaker.tenant.adapter,
        # Each question begins differently, so that no prefix of it is cached.
        messages=[{"role": "user", "content": f"# {number}\n{speaker.question}"}],
        max_tokens=4,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    async with stream:
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
    return (time.perf_counter() - started) * 1000


async def _warm_ttft_ms(speaker: Speaker) -> float:
    return statistics.median([await _ttft_ms(speaker, n) for n in range(1, _WARM_REQUESTS + 1)])


async def _chat(speaker: Speaker) -> str:
    """The answer to the question, as chat, not streamed."""
    answer: ChatCompletion = await speaker.client.chat.completions.create(
        model=speaker.tenant.adapter,
        messages=[{"role": "user", "content": speaker.question}],
        max_tokens=_REPLY_TOKENS,
        **_SAMPLING,
    )
    return answer.choices[0].message.content or ""


async def _complete(speaker: Speaker, model: str) -> str:
    """How `model` goes on where the opening ends, as a completion, not streamed."""
    completion: Completion = await speaker.client.completions.create(
        model=model, prompt=speaker.opening, max_tokens=_REPLY_TOKENS, **_SAMPLING
    )
    return completion.choices[0].text


async def _likelihood(speaker: Speaker, stranger: Speaker, base_model: str) -> Likelihood:
    """Score the speaker's text three ways; the stranger's adapter needs the stranger's key."""
    base, own, other = await asyncio.gather(
        _score(speaker.client, base_model, speaker.texts),
        _score(speaker.client, speaker.tenant.adapter, speaker.texts),
        _score(stranger.client, stranger.tenant.adapter, speaker.texts),
    )
    return Likelihood(
        base=statistics.fmean(base),
        own=statistics.fmean(own),
        other=statistics.fmean(other),
        tokens=len(base),
    )


async def _score(client: AsyncOpenAI, model: str, texts: Sequence[str]) -> list[float]:
    """The log-likelihood of every token of the texts but the first, from the engine itself."""
    completion = await client.completions.create(
        model=model, prompt=list(texts), echo=True, logprobs=0, max_tokens=1, temperature=0
    )
    scores: list[float] = []
    for choice in completion.choices:
        logprobs = choice.logprobs and choice.logprobs.token_logprobs
        if not logprobs:
            raise CliError(f"expected the engine to score its prompt, got no logprobs for {model}")
        # The first token has no context, and the last one was generated.
        scores += [value for value in logprobs[1:-1] if value is not None]
    return scores


async def _throughput(speakers: Sequence[Speaker]) -> Throughput:
    started = time.perf_counter()
    counts = await asyncio.gather(
        *(
            _stream_completion(speaker, number)
            for speaker in speakers
            for number in range(_STREAMS_PER_TENANT)
        )
    )
    tokens = sum(counts)
    return Throughput(len(counts), tokens, tokens / (time.perf_counter() - started))


async def _stream_completion(speaker: Speaker, number: int) -> int:
    """Stream one completion to its end; returns how many tokens it had."""
    stream = await speaker.client.completions.create(
        model=speaker.tenant.adapter,
        prompt=f"# {number}\n{speaker.opening}",
        max_tokens=_STREAM_TOKENS,
        temperature=1.0,
        seed=number,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    tokens = 0
    async with stream:
        async for chunk in stream:
            if chunk.usage:
                tokens = chunk.usage.completion_tokens
    return tokens
