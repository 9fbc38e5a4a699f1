"""The official SDK, as people use it: sync and async, whole and streamed, right and wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from tests.fakes.engine import Normal, Status, StreamError
from tests.fakes.services import ACME_KEY, BASE_MODEL, GLOBEX_KEY, READER_KEY
from tests.unit.gateway.api.conftest import Stack

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def sdk(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=ACME_KEY, base_url=f"{stack.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_sdk(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    client = openai.AsyncOpenAI(api_key=ACME_KEY, base_url=f"{stack.url}/v1", max_retries=0)
    async with client:
        yield client


def test_a_chat_answer(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="support", messages=MESSAGES)
    assert answer.model == "support"
    assert answer.choices[0].message.content == "Hello, world!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert answer._request_id is not None


def test_a_text_answer(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(model=BASE_MODEL, prompt="Once", max_tokens=4)
    assert (answer.model, answer.choices[0].text) == (BASE_MODEL, "Hello, world!")


def test_a_chat_stream_with_usage(sdk: openai.OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model="support", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "Hello, world!"
    assert {chunk.model for chunk in chunks} == {"support"}
    assert all(chunk.usage is None for chunk in chunks)
    assert last.usage is not None
    assert last.usage.total_tokens == 11


def test_a_text_stream(sdk: openai.OpenAI) -> None:
    stream = sdk.completions.create(model="support", prompt="Once", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "Hello, world!"


async def test_the_async_client_chats_and_streams(async_sdk: openai.AsyncOpenAI) -> None:
    answer = await async_sdk.chat.completions.create(model="support", messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello, world!"
    stream = await async_sdk.chat.completions.create(
        model="support", messages=MESSAGES, stream=True
    )
    assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "Hello, world!"
    text = await async_sdk.completions.create(model="support", prompt="Once", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in text]) == "Hello, world!"


async def test_many_streams_at_once_lose_no_frame(
    stack: Stack, async_sdk: openai.AsyncOpenAI
) -> None:
    tokens = tuple(f"{number} " for number in range(30))
    stack.engine.behaviour = Normal(tokens=tokens, gap_s=0.001)

    async def read() -> str:
        stream = await async_sdk.chat.completions.create(
            model="support", messages=MESSAGES, stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    assert await asyncio.gather(*(read() for _ in range(32))) == ["".join(tokens)] * 32


async def test_two_tenants_at_once_each_reach_their_own(stack: Stack) -> None:
    def client(key: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(api_key=key, base_url=f"{stack.url}/v1", max_retries=0)

    async with client(ACME_KEY) as acme, client(GLOBEX_KEY) as globex:
        calls = [
            sdk.chat.completions.create(model=model, messages=MESSAGES)
            for sdk, model in ((acme, "support"), (globex, "legal"))
            for _ in range(8)
        ]
        answers = await asyncio.gather(*calls)
    assert [answer.model for answer in answers] == ["support"] * 8 + ["legal"] * 8
    asked = {(r.body["model"][:9], r.body["cache_salt"]) for r in stack.engine.requests}
    assert len(asked) == 2


def test_models_are_listed_and_looked_up(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == [BASE_MODEL, "support"]
    assert sdk.models.retrieve("support").owned_by == "acme"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("legal")


def test_errors_raise_the_sdks_own_classes(stack: Stack, sdk: openai.OpenAI) -> None:
    def ask(client: openai.OpenAI = sdk, **changed: object) -> None:
        client.chat.completions.create(**{"model": "support", "messages": MESSAGES, **changed})

    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="legal")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert missing.value.request_id is not None
    with pytest.raises(openai.BadRequestError) as bad:
        ask(temperature="hot")
    assert bad.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError):
        ask(sdk.with_options(api_key="tsk_live_wrong"))
    with pytest.raises(openai.PermissionDeniedError):
        ask(sdk.with_options(api_key=READER_KEY))
    stack.engine.behaviour = Status(500)
    with pytest.raises(openai.InternalServerError):
        ask()


def test_an_error_in_a_stream_raises_and_is_no_end(stack: Stack, sdk: openai.OpenAI) -> None:
    stack.engine.behaviour = StreamError(3)
    stream = sdk.chat.completions.create(model="support", messages=MESSAGES, stream=True)
    assert len([next(stream) for _ in range(3)]) == 3
    with pytest.raises(openai.APIError) as caught:
        next(stream)
    assert caught.value.code == "engine_failed"


def test_closing_a_stream_stops_the_engine(stack: Stack, sdk: openai.OpenAI) -> None:
    stack.engine.behaviour = Normal(tokens=("word ",) * 500, gap_s=0.02)
    with sdk.chat.completions.create(model="support", messages=MESSAGES, stream=True) as stream:
        next(iter(stream))
    assert stack.engine.hung_up.wait(2)


def test_the_sdks_own_leftovers_in_a_conversation_are_accepted(sdk: openai.OpenAI) -> None:
    first = sdk.chat.completions.create(model="support", messages=MESSAGES)
    history = [*MESSAGES, first.choices[0].message, {"role": "user", "content": "More"}]
    sdk.chat.completions.create(model="support", messages=history)
    dumped = [*MESSAGES, first.choices[0].message.model_dump(), MESSAGES[0]]
    sdk.chat.completions.create(model="support", messages=dumped)
