"""The engine's side of the broker: one short connection per question, with a deadline."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.broker import protocol
from runtime.errors import AdapterRefusedError, BrokerProtocolError, BrokerUnavailableError

RETRY_S = 0.01


@dataclass(frozen=True, slots=True)
class TakenAdapter:
    """A PEFT configuration, and a path under which this process can read the safetensors file.

    The path names a sealed memory file: nothing of it is on any file system.
    """

    config_json: bytes
    tensors_path: Path
    size: int


@dataclass(frozen=True, slots=True)
class BrokerClient:
    """Blocking, thread-safe client; every method raises BrokerError and nothing else."""

    socket_path: Path
    timeout_s: float

    def prepare(self, engine_name: str) -> None:
        """Have the adapter fetched, verified and decrypted; raises AdapterRefusedError."""
        self._ask(protocol.Prepare(engine_name))

    def report_failure(self, engine_name: str) -> None:
        """Have the name refused for as long as this engine lives."""
        self._ask(protocol.ReportFailure(engine_name))

    def confirm(self, engine_name: str) -> None:
        """Return if no worker has reported a failure of this name; raises AdapterRefusedError."""
        self._ask(protocol.Confirm(engine_name))

    @contextmanager
    def take(self, engine_name: str) -> Iterator[TakenAdapter]:
        """Lend the decrypted adapter for the length of the `with` block."""
        with self._exchange(protocol.Take(engine_name)) as (reply, file):
            if not isinstance(reply, protocol.Taken) or file is None:
                raise BrokerProtocolError("expected an adapter, got another reply")
            yield TakenAdapter(reply.config_json, Path(f"/proc/self/fd/{file}"), reply.size)

    def _ask(self, request: protocol.Request) -> None:
        with self._exchange(request) as (reply, _file):
            if not isinstance(reply, protocol.Done):
                raise BrokerProtocolError("expected an acknowledgement, got another reply")

    def _connect(self, connection: socket.socket) -> None:
        """Connect within the deadline: a full queue refuses a Unix socket at once (connect(2))."""
        deadline = time.monotonic() + self.timeout_s
        connection.settimeout(self.timeout_s)
        while True:
            try:
                return connection.connect(str(self.socket_path))
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S)

    @contextmanager
    def _exchange(self, request: protocol.Request) -> Iterator[tuple[protocol.Reply, int | None]]:
        with contextlib.ExitStack() as stack:
            try:
                connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                self._connect(connection)
                protocol.send(connection, request)
                reply, file = protocol.receive_reply(connection)
            except OSError as error:
                raise BrokerUnavailableError("the broker cannot be reached or is slow") from error
            if file is not None:
                stack.callback(os.close, file)
            if isinstance(reply, protocol.Refused):
                raise AdapterRefusedError(reply.code, kind=reply.kind)
            yield reply, file
