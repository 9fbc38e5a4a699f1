"""Messages of the broker: bounded, typed, and with at most one file descriptor."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from runtime.broker import protocol
from runtime.errors import BrokerProtocolError

NAME = "ts-acme-" + "a" * 64 + "-1"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    left.settimeout(2)
    right.settimeout(2)
    with left, right:
        yield left, right


@pytest.mark.parametrize(
    "message",
    [
        protocol.Prepare(NAME),
        protocol.Take(NAME),
        protocol.ReportFailure(NAME),
        protocol.Confirm(NAME),
    ],
)
def test_a_request_arrives_as_it_was_sent(
    ends: tuple[socket.socket, socket.socket], message: protocol.Request
) -> None:
    protocol.send(ends[0], message)

    assert protocol.receive_request(ends[1]) == message


def test_a_descriptor_travels_with_a_reply(ends: tuple[socket.socket, socket.socket]) -> None:
    read, write = os.pipe()
    protocol.send(ends[0], protocol.Taken(b"{}", 5), read)
    os.close(read)

    reply, file = protocol.receive_reply(ends[1])

    assert reply == protocol.Taken(b"{}", 5)
    assert file is not None
    os.write(write, b"hello")
    assert os.read(file, 5) == b"hello"
    os.close(file)
    os.close(write)


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack("<I", protocol.MAX_MESSAGE_BYTES + 1),
        struct.pack("<I", 3) + b"abc",
        struct.pack("<I", 0),
        b"\x01",
        struct.pack("<I", 10) + b"abc",
    ],
    ids=["too long", "no msgpack", "empty", "cut in its length", "cut in its body"],
)
def test_anything_else_is_refused(ends: tuple[socket.socket, socket.socket], frame: bytes) -> None:
    ends[0].sendall(frame)
    ends[0].shutdown(socket.SHUT_WR)

    with pytest.raises(BrokerProtocolError):
        protocol.receive_request(ends[1])


def test_a_reply_is_no_request(ends: tuple[socket.socket, socket.socket]) -> None:
    protocol.send(ends[0], protocol.Done())

    with pytest.raises(BrokerProtocolError):
        protocol.receive_request(ends[1])


def test_a_name_of_any_length_is_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    protocol.send(ends[0], protocol.Take("x" * (protocol.MAX_NAME_CHARACTERS + 1)))

    with pytest.raises(BrokerProtocolError):
        protocol.receive_request(ends[1])


def test_a_descriptor_that_nobody_asked_for_is_closed(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    read, write = os.pipe()
    protocol.send(ends[0], protocol.Take(NAME), write)
    os.close(write)

    with pytest.raises(BrokerProtocolError):
        protocol.receive_request(ends[1])

    # End of file: no writer is left, not even the duplicate that was sent.
    assert os.read(read, 1) == b""
    os.close(read)


def test_a_peer_that_hangs_up_as_soon_as_it_has_the_message_is_no_error(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """An empty write after the whole message would find the connection closed."""

    class HangsUp:
        def sendmsg(self, *message: object) -> int:
            sent = ends[0].sendmsg(*message)  # type: ignore[arg-type]
            ends[1].close()
            return sent

        def sendall(self, data: bytes) -> None:
            ends[0].sendall(data)

    protocol.send(HangsUp(), protocol.Done())  # type: ignore[arg-type]
