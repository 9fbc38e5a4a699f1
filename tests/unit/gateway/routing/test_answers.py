"""What the gateway makes of the engine's answers, as functions over bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import (
    EngineFailedError,
    InvalidRequestError,
    OverloadedError,
    UpstreamProtocolError,
)
from gateway.routing.answers import Tally, engine_error, rewrite_answer, rewrite_chunk

ENGINE_NAME = f"ts-acme-corp-{'0a' * 32}-3"


def chunk(**members: Any) -> bytes:
    return json.dumps({"id": "1", "object": "chunk", "model": ENGINE_NAME, **members}).encode()


def choice(index: int = 0, reason: str | None = None, text: str = "t") -> dict[str, Any]:
    return {"index": index, "finish_reason": reason, "delta": {"content": text}}


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


def test_the_alias_stands_where_the_engine_name_stood() -> None:
    body = chunk(choices=[choice()], usage=usage(3, 5))
    rewritten = rewrite_answer(body, "support@7", Tally())
    assert json.loads(rewritten)["model"] == "support@7"
    assert ENGINE_NAME.encode() not in rewritten


def test_text_that_looks_like_a_model_member_is_left_alone() -> None:
    text = f'"model":"{ENGINE_NAME}", \\u0000 é'
    rewritten = rewrite_answer(chunk(choices=[choice(text=text)]), "support", Tally())
    assert json.loads(rewritten)["choices"][0]["delta"]["content"] == text


def test_members_that_are_not_on_the_list_stay_behind() -> None:
    body = chunk(choices=[], kv_transfer_params={"x": 1}, prompt_text="secret", metrics={})
    assert set(json.loads(rewrite_answer(body, "a", Tally()))) == {
        "id",
        "object",
        "model",
        "choices",
    }


def test_choices_keep_their_bytes() -> None:
    raw = b'{"model":"m","choices":[ {"index":0,"text":"\\u00e9\\/",  "n":1e2} ]}'
    assert b'[ {"index":0,"text":"\\u00e9\\/",  "n":1e2} ]' in rewrite_answer(raw, "a", Tally())


def test_the_extra_usage_chunk_is_kept_only_for_those_who_asked() -> None:
    final = chunk(choices=[], usage=usage(3, 9))
    assert rewrite_chunk(final, "a", Tally(), with_usage=False) is None
    kept = rewrite_chunk(final, "a", Tally(), with_usage=True)
    assert kept is not None
    assert json.loads(kept)["usage"] == usage(3, 9)


def test_running_usage_is_never_passed_on() -> None:
    running = chunk(choices=[choice()], usage=usage(3, 1))
    for with_usage in (True, False):
        passed = rewrite_chunk(running, "a", Tally(), with_usage=with_usage)
        assert passed is not None
        assert "usage" not in json.loads(passed)


def test_a_cut_stream_is_counted_to_its_last_chunk() -> None:
    tally = Tally()
    for count in range(4):
        rewrite_chunk(
            chunk(choices=[choice()], usage=usage(11, count)), "a", tally, with_usage=False
        )
    assert (tally.prompt_tokens, tally.completion_tokens) == (11, 3)


def test_several_choices_share_their_prompt_and_add_up() -> None:
    tally = Tally(choices_per_prompt=2)
    for index, count in ((0, 2), (1, 5), (0, 3), (2, 1), (3, 1)):
        data = chunk(choices=[choice(index)], usage=usage(10 if index < 2 else 20, count))
        rewrite_chunk(data, "a", tally, with_usage=False)
    assert (tally.prompt_tokens, tally.completion_tokens) == (30, 10)


def test_the_last_chunk_has_the_last_word() -> None:
    tally = Tally()
    rewrite_chunk(
        chunk(choices=[choice(reason="length")], usage=usage(11, 3)), "a", tally, with_usage=False
    )
    rewrite_chunk(chunk(choices=[], usage=usage(11, 4)), "a", tally, with_usage=False)
    assert (tally.completion_tokens, tally.finish_reason) == (4, "length")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{not json",
        b"[1,2]",
        b'"text"',
        b'{"choices":7}',
        b'{"choices":[{"index":"zero"}]}',
        b'{"model":"m"}',
        b'{"choices":[],"usage":"many"}',
        b'{"choices":[{"text":"\xff\xfe"}],"\xff":1}',
        b'{"choices":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_what_is_not_an_answer_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        rewrite_chunk(data, "a", Tally(), with_usage=False)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequestError),
        (422, InvalidRequestError),
        (404, EngineFailedError),
        (429, OverloadedError),
        (500, EngineFailedError),
        (503, OverloadedError),
        (418, EngineFailedError),
    ],
)
def test_each_status_of_the_engine_has_its_error(status: int, expected: type) -> None:
    body = b'{"error":{"message":"because","code":%d}}' % status
    assert type(engine_error(body, status=status, alias="a")) is expected
    assert type(engine_error(body, status=None, alias="a")) is expected


def test_an_engine_error_names_the_alias_and_no_file() -> None:
    message = f"model {ENGINE_NAME} in /srv/models/base-7b/x.json: max_tokens must be at most 512"
    body = json.dumps({"error": {"message": message, "param": "max_tokens"}}).encode()
    error = engine_error(body, status=400, alias="support")
    assert str(error) == "model support in [path]: max_tokens must be at most 512"
    assert isinstance(error, InvalidRequestError)
    assert error.param == "max_tokens"


@pytest.mark.parametrize("body", [b"", b"Internal Server Error", b'{"detail":[]}', b"\xff"])
def test_an_error_without_the_usual_shape_is_still_an_error(body: bytes) -> None:
    assert type(engine_error(body, status=500, alias="a")) is EngineFailedError
    assert str(engine_error(body, status=400, alias="a"))
