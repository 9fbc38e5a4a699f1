"""The broker's two sides over a real socket."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_store.errors import (
    AdapterStoreError,
    ChunkError,
    InvalidNameError,
    NotActiveError,
    StorageUnavailableError,
    WrongEpochError,
)
from adapter_store.types import EngineName
from runtime.broker.client import BrokerClient
from runtime.broker.failures import FailedNames
from runtime.broker.memory import AdapterMemory
from runtime.broker.refusals import refusal_of
from runtime.broker.server import Broker
from runtime.errors import (
    AdapterRefusedError,
    BrokerProtocolError,
    BrokerUnavailableError,
    PoolConfigurationError,
)
from tests.unit.runtime.test_broker_memory import Loader, name

A = str(name("a"))


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ts-") as path:
        yield Path(path)


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def failed_names() -> FailedNames:
    return FailedNames()


@pytest.fixture
def client(folder: Path, loader: Loader, failed_names: FailedNames) -> Iterator[BrokerClient]:
    path = folder / "broker.sock"
    memory = AdapterMemory(loader, max_bytes=1 << 20, ttl_s=60)
    with Broker(path, memory, failed_names, idle_timeout_s=2):
        yield BrokerClient(path, timeout_s=5)
    assert not path.exists()
    assert not [t for t in threading.enumerate() if t.name.startswith("broker-accept")]


def test_a_prepared_adapter_is_handed_over_without_being_loaded_again(
    client: BrokerClient, loader: Loader
) -> None:
    client.prepare(A)
    with client.take(A) as taken:
        content = taken.tensors_path.read_bytes()
        config = taken.config_json

    assert content == b"x" * 100
    assert config == b"{}"
    assert len(loader.made) == 1
    assert not os.path.lexists(taken.tensors_path), "the memory file is closed afterwards"


def test_a_failed_name_is_refused_for_good_and_others_are_not(
    client: BrokerClient, failed_names: FailedNames
) -> None:
    client.prepare(A)
    client.confirm(A)
    client.report_failure(A)

    for ask in (client.prepare, client.confirm):
        with pytest.raises(AdapterRefusedError) as refused:
            ask(A)
        assert refused.value.kind == "failed"
    with pytest.raises(AdapterRefusedError), client.take(A):
        pass
    client.prepare(str(name("b")))
    failed_names.clear()  # a new engine
    client.prepare(A)


def test_a_full_memory_of_failures_refuses_everything() -> None:
    names = FailedNames(capacity=2)
    names.add(name("a"))
    assert name("c") not in names
    names.add(name("b"))
    names.add(name("d"))

    assert names.full
    assert name("c") in names


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotActiveError("secret text"), "absent"),
        (WrongEpochError("secret text"), "absent"),
        (StorageUnavailableError("secret text"), "unavailable"),
        (ChunkError("secret text"), "unusable"),
    ],
)
def test_a_refusal_carries_a_code_and_a_kind_but_no_text(
    client: BrokerClient, loader: Loader, error: AdapterStoreError, kind: str
) -> None:
    loader.error = error

    with pytest.raises(AdapterRefusedError) as refused:
        client.prepare(A)

    assert (refused.value.reason, refused.value.kind) == (error.code, kind)
    assert "secret" not in str(refused.value)


def test_a_malformed_name_is_absent(client: BrokerClient, loader: Loader) -> None:
    with pytest.raises(AdapterRefusedError) as refused:
        client.prepare("../../etc/passwd")

    assert (refused.value.reason, refused.value.kind) == (InvalidNameError.code, "absent")
    assert loader.made == []


def test_every_error_of_the_store_has_a_kind() -> None:
    def subclasses(cls: type[AdapterStoreError]) -> Iterator[type[AdapterStoreError]]:
        for child in cls.__subclasses__():
            yield child
            yield from subclasses(child)

    for cls in subclasses(AdapterStoreError):
        error = cls.__new__(cls)
        assert refusal_of(error).kind in {"absent", "unusable", "unavailable"}


def test_nonsense_closes_the_connection_and_hurts_nobody_else(client: BrokerClient) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(str(client.socket_path))
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        stranger.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""

    client.prepare(A)


def test_silent_connections_do_not_keep_others_waiting(client: BrokerClient) -> None:
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(40)]
    try:
        for connection in silent:
            connection.setblocking(False)
            connection.connect_ex(str(client.socket_path))
        client.prepare(A)
    finally:
        for connection in silent:
            connection.close()


def test_a_defect_in_the_loader_reaches_the_client_as_a_closed_connection(
    client: BrokerClient, loader: Loader
) -> None:
    loader.error = ZeroDivisionError("text of a defect")
    with pytest.raises(BrokerProtocolError) as failed:
        client.prepare(A)
    assert "defect" not in str(failed.value)

    loader.error = None
    client.prepare(A)


def test_without_a_broker_the_client_says_so(folder: Path) -> None:
    with pytest.raises(BrokerUnavailableError):
        BrokerClient(folder / "nobody.sock", timeout_s=1).prepare(A)


def test_a_broker_that_does_not_answer_is_given_up(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.bind(str(folder / "deaf.sock"))
        deaf.listen()
        with pytest.raises(BrokerUnavailableError):
            BrokerClient(folder / "deaf.sock", timeout_s=0.1).prepare(A)


def test_the_socket_is_its_owners_alone_and_replaces_a_stale_one(
    folder: Path, loader: Loader
) -> None:
    path = folder / "broker.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))
    memory = AdapterMemory(loader, max_bytes=1 << 20, ttl_s=60)

    with Broker(path, memory, FailedNames(), idle_timeout_s=2):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        BrokerClient(path, timeout_s=5).prepare(A)


def test_a_file_in_the_place_of_the_socket_is_refused_and_stays(
    folder: Path, loader: Loader
) -> None:
    path = folder / "broker.sock"
    path.write_text("precious")
    broker = Broker(
        path, AdapterMemory(loader, max_bytes=1, ttl_s=1), FailedNames(), idle_timeout_s=1
    )

    with pytest.raises(PoolConfigurationError), broker:
        pass
    assert path.read_text() == "precious"


def test_engine_names_survive_the_way_to_the_loader(client: BrokerClient, loader: Loader) -> None:
    seen: list[EngineName] = []
    original = loader.__call__
    loader.__class__ = type(
        "Spy", (Loader,), {"__call__": lambda self, n: (seen.append(n), original(n))[1]}
    )

    client.prepare("ts-a-tenant-with-dashes-" + "b" * 64 + "-12")

    assert [(n.tenant, n.epoch) for n in seen] == [("a-tenant-with-dashes", 12)]
