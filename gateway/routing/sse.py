"""Server-sent events, byte by byte: a push parser that gives the same events for any split.

The grammar is the WHATWG one (https://html.spec.whatwg.org/multipage/server-sent-events.html):
lines end in LF, CR or CRLF; `:` starts a comment; several `data` lines make one event. Only the
data of an event is kept, since the OpenAI protocol uses no other field.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import UpstreamProtocolError

DONE: Final = b"[DONE]"
"""The data of the event that ends every complete OpenAI stream."""

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
"""One frame with 20 alternatives for each of a few thousand prompt tokens stays below this."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def encode_event(data: bytes) -> bytes:
    """Return one event. `data` holds no line break, as JSON on one line never does."""
    return b"data: " + data + b"\n\n"


class EventParser:
    """Turns chunks of a stream into the data of its events, in bounded memory."""

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._buffer = b""
        self._searched = 0  # bytes of the buffer known to hold no line end
        self._after_cr = False  # a CR ended the last line, so an LF now belongs to it
        self._at_start = True
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of each event that `chunk` completes.

        Raises UpstreamProtocolError when one event grows beyond the limit.
        """
        if not chunk:
            return []
        if self._after_cr:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        buffer = self._buffer + chunk if self._buffer else chunk
        events: list[bytes] = []
        start, search = 0, self._searched
        while (end := _LINE_END.search(buffer, search)) is not None:
            self._take_line(buffer[start : end.start()], events)
            start = search = end.end()
        # A CR at the very end has ended its line; whether LF follows is for the next chunk to say.
        self._after_cr = start > 0 and start == len(buffer) and buffer.endswith(b"\r")
        self._buffer = buffer[start:]
        self._searched = len(self._buffer)
        if len(self._buffer) + self._data_bytes > self._max_event_bytes:
            raise UpstreamProtocolError(f"an event exceeds {self._max_event_bytes} bytes")
        return events

    def _take_line(self, line: bytes, events: list[bytes]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data, self._data_bytes = [], 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._max_event_bytes:
                raise UpstreamProtocolError(f"an event exceeds {self._max_event_bytes} bytes")
