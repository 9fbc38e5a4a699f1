"""Messages between broker and engine: a length, a msgpack value, perhaps a file descriptor."""

from __future__ import annotations

import os
import socket
import struct
from typing import Literal

import msgspec

from runtime.errors import BrokerProtocolError

MAX_MESSAGE_BYTES = 1 << 20
"""A PEFT configuration is a few kilobytes; tensors never travel in a message."""

MAX_NAME_CHARACTERS = 160
"""`ts-` + tenant (48) + digest (64) + epoch (9) and two dashes is 126."""

_LENGTH = struct.Struct("<I")

RefusalKind = Literal["absent", "unusable", "failed", "unavailable"]
"""Whether the adapter is not to be had, cannot work, failed in a step, or may work later."""


class Prepare(msgspec.Struct, frozen=True, tag="prepare", forbid_unknown_fields=True):
    """Fetch, verify and decrypt, so that the following `Take` is memory work only."""

    engine_name: str


class Take(msgspec.Struct, frozen=True, tag="take", forbid_unknown_fields=True):
    """Hand over the tensors."""

    engine_name: str


class ReportFailure(msgspec.Struct, frozen=True, tag="report_failure", forbid_unknown_fields=True):
    """An engine step ran without this adapter: its name must never be served again."""

    engine_name: str


class Confirm(msgspec.Struct, frozen=True, tag="confirm", forbid_unknown_fields=True):
    """Ask whether every worker has loaded this adapter as far as is known."""

    engine_name: str


class Done(msgspec.Struct, frozen=True, tag="done", forbid_unknown_fields=True):
    """The request was carried out."""


class Taken(msgspec.Struct, frozen=True, tag="taken", forbid_unknown_fields=True):
    """The PEFT configuration; a sealed memory file with the safetensors bytes comes along."""

    config_json: bytes
    size: int


class Refused(msgspec.Struct, frozen=True, tag="refused", forbid_unknown_fields=True):
    """No, and why, as a stable error code."""

    code: str
    kind: RefusalKind


Request = Prepare | Take | ReportFailure | Confirm
Reply = Done | Taken | Refused

_ENCODER = msgspec.msgpack.Encoder()
_REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_REPLIES: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def send(connection: socket.socket, message: Request | Reply, file: int | None = None) -> None:
    """Send one message, and with it a duplicate of the descriptor `file`."""
    body = _ENCODER.encode(message)
    frame = _LENGTH.pack(len(body)) + body
    sent = socket.send_fds(connection, [frame], [] if file is None else [file])
    if sent < len(frame):
        # Not with an empty rest: the peer may have answered and hung up by now, and sending even
        # nothing to it is EPIPE.
        connection.sendall(frame[sent:])


def receive_request(connection: socket.socket) -> Request:
    """Read one request; a descriptor that comes with it is closed and refused."""
    body, file = _receive(connection)
    if file is not None:
        os.close(file)
        raise BrokerProtocolError("expected a request, got a file descriptor with it")
    try:
        request = _REQUESTS.decode(body)
    except msgspec.MsgspecError as error:
        raise BrokerProtocolError("expected a request, got something else") from error
    if len(request.engine_name) > MAX_NAME_CHARACTERS:
        raise BrokerProtocolError(f"expected a name of at most {MAX_NAME_CHARACTERS} characters")
    return request


def receive_reply(connection: socket.socket) -> tuple[Reply, int | None]:
    """Read one reply and the descriptor that came with it, which the caller must close."""
    body, file = _receive(connection)
    try:
        reply = _REPLIES.decode(body)
    except msgspec.MsgspecError as error:
        if file is not None:
            os.close(file)
        raise BrokerProtocolError("expected a reply, got something else") from error
    return reply, file


def _receive(connection: socket.socket) -> tuple[bytes, int | None]:
    head, files, _flags, _address = socket.recv_fds(
        connection, _LENGTH.size, 1, socket.MSG_CMSG_CLOEXEC
    )
    file = files[0] if files else None
    try:
        head += _receive_exactly(connection, _LENGTH.size - len(head))
        (length,) = _LENGTH.unpack(head)
        if length > MAX_MESSAGE_BYTES:
            raise BrokerProtocolError(
                f"expected a message of at most {MAX_MESSAGE_BYTES} bytes, got {length}"
            )
        return _receive_exactly(connection, length), file
    except BaseException:
        if file is not None:
            os.close(file)
        raise


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise BrokerProtocolError("the peer hung up in the middle of a message")
        parts += part
    return bytes(parts)
