"""The event parser: the same events for every way of cutting the stream."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamProtocolError
from gateway.routing.sse import EventParser, encode_event

LINE_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
LINES = st.one_of(
    st.just(b""),
    st.just(b"data"),
    st.just(b"data: [DONE]"),
    st.just(b"\xef\xbb\xbfdata: with a mark"),
    st.builds(lambda text: b"data:" + text, st.binary(max_size=12)),
    st.builds(lambda text: b": " + text, st.binary(max_size=6)),
    st.sampled_from([b"event: ping", b"id: 7", b"retry: 10", b"nonsense"]),
)
STREAMS = st.lists(st.tuples(LINES, LINE_ENDS), max_size=20).map(
    lambda lines: b"".join(line + end for line, end in lines)
)


def parse(chunks: list[bytes]) -> list[bytes]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def reference(stream: bytes) -> list[bytes]:
    """The grammar, read as plainly as possible from the whole stream at once."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]
    events: list[bytes] = []
    data: list[bytes] = []
    for line in lines:
        if line == b"":
            if data:
                events.append(b"\n".join(data))
            data = []
        elif line == b"data" or line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
    return events


@given(stream=STREAMS, cuts=st.lists(st.integers(min_value=0, max_value=400), max_size=12))
def test_any_split_of_the_stream_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert parse(chunks) == parse([stream]) == reference(stream)


@given(stream=STREAMS)
def test_byte_by_byte_gives_the_same_events(stream: bytes) -> None:
    assert parse([stream[i : i + 1] for i in range(len(stream))]) == reference(stream)


@given(garbage=st.binary(max_size=300))
def test_garbage_never_breaks_the_parser(garbage: bytes) -> None:
    assert parse([garbage]) == parse([garbage[:7], garbage[7:]])


@given(events=st.lists(st.binary().map(lambda raw: raw.hex().encode()), max_size=8))
def test_what_is_encoded_is_parsed_back(events: list[bytes]) -> None:
    assert parse([b"".join(map(encode_event, events))]) == events


def test_an_event_without_its_blank_line_is_not_delivered() -> None:
    assert parse([b"data: one\n\ndata: two\n"]) == [b"one"]


def test_several_data_lines_are_one_event() -> None:
    assert parse([b"data: a\ndata: b\n\n"]) == [b"a\nb"]


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 200, b"data: xxxxxxxxx\n" * 20])
def test_an_event_beyond_the_limit_is_refused(stream: bytes) -> None:
    parser = EventParser(max_event_bytes=100)
    with pytest.raises(UpstreamProtocolError):
        parser.feed(stream)


def test_many_small_events_are_within_the_limit_of_one() -> None:
    parser = EventParser(max_event_bytes=100)
    assert len(parser.feed(b"data: xxxxxxxxx\n\n" * 50)) == 50
