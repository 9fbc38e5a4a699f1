"""The agent's side of the broker: threads that answer the engine's processes over one socket."""

from __future__ import annotations

import logging
import os
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from adapter_store.errors import AdapterStoreError
from adapter_store.types import EngineName
from runtime.broker import protocol
from runtime.broker.failures import FailedNames
from runtime.broker.memory import AdapterMemory
from runtime.broker.refusals import refusal_of
from runtime.errors import BrokerProtocolError
from runtime.sockets import listen, peer_user_id, remove_stale_socket

MAX_CONCURRENT_REQUESTS = 32
"""Workers and API server ask one question at a time each; more is a mistake or an attack."""

_logger = logging.getLogger("tensafe.broker")

FAILED = protocol.Refused("adapter_failed_in_step", "failed")


class Broker:
    """Serves decrypted adapters on a Unix socket to processes of the same user.

    Use as a context manager; leaving it closes the socket and wipes every adapter.
    """

    def __init__(
        self,
        socket_path: Path,
        memory: AdapterMemory,
        failed_names: FailedNames,
        *,
        idle_timeout_s: float,
    ) -> None:
        self._socket_path = socket_path
        self._memory = memory
        self._failed_names = failed_names
        self._idle_timeout_s = idle_timeout_s
        self._permits = threading.Semaphore(MAX_CONCURRENT_REQUESTS)

    def __enter__(self) -> Self:
        self._listener = listen(self._socket_path, backlog=MAX_CONCURRENT_REQUESTS)
        self._workers = ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS, thread_name_prefix="broker")
        self._acceptor = threading.Thread(target=self._accept, name="broker-accept", daemon=True)
        self._acceptor.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # shutdown() wakes the thread in accept(); close() alone would leave it there.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        self._workers.shutdown(wait=False, cancel_futures=True)
        remove_stale_socket(self._socket_path)
        self._memory.clear()

    def _accept(self) -> None:
        while True:
            self._permits.acquire()
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            connection.settimeout(self._idle_timeout_s)
            self._workers.submit(self._serve, connection).add_done_callback(_log_defect)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                if peer_user_id(connection) == os.geteuid():
                    self._answer(connection, protocol.receive_request(connection))
        except (OSError, BrokerProtocolError):
            return  # the peer is gone or talks nonsense; it sees the connection close
        finally:
            self._permits.release()

    def _answer(self, connection: socket.socket, request: protocol.Request) -> None:
        try:
            name = EngineName.parse(request.engine_name)
            reply, file = self._carry_out(request, name)
        except AdapterStoreError as error:
            reply, file = refusal_of(error), None
        try:
            protocol.send(connection, reply, file)
        finally:
            if file is not None:
                os.close(file)

    def _carry_out(
        self, request: protocol.Request, name: EngineName
    ) -> tuple[protocol.Reply, int | None]:
        if isinstance(request, protocol.ReportFailure):
            self._failed_names.add(name)
            return protocol.Done(), None
        if name in self._failed_names:
            return FAILED, None
        if isinstance(request, protocol.Prepare):
            self._memory.get(name)
        if isinstance(request, protocol.Take):
            return self._hand_over(name)
        return protocol.Done(), None

    def _hand_over(self, name: EngineName) -> tuple[protocol.Reply, int | None]:
        held = self._memory.get(name)
        file = held.share()
        if file is None:
            # It fell out of the cache between the two lines; the next one is fresh.
            return protocol.Refused("adapter_evicted", "unavailable"), None
        return protocol.Taken(held.config_json, held.size), file


def _log_defect(answered: Future[None]) -> None:
    """Name an exception that nobody expected; its client has seen the connection close."""
    if not answered.cancelled() and (defect := answered.exception()) is not None:
        _logger.error("a request ended with %s", type(defect).__name__)
