"""Every check of the demo fails when what it checks is not so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adapter_store.tssp.privacy import (
    DpSgdPrivacy,
    GaussianDpEvent,
    NoPrivacy,
    PrivacyStatement,
)
from adapter_store.tssp.signing import PublisherPrivateKey
from deploy.demo import security
from deploy.demo.conversation import Likelihood, Talk, Throughput
from deploy.demo.messages import AdapterReady, MessageReader, MessageWriter, ModelReady, Progressed
from deploy.demo.onboarding import Http, Tenant
from deploy.demo.results import Outcome, TenantResult
from deploy.report import Bar
from gateway.audit.export import bound_line, record_line
from gateway.audit.record import GENESIS, AuditHead, ChainedRecord, chain_hash

Answer = Callable[[str, str, dict[str, Any]], httpx2.Response]


class ScriptedGateway(Http):
    """Answers from a function of method, path and content."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def send(self, method: str, path: str, **content: Any) -> httpx2.Response:
        response = self._answer(method, path, content)
        response.request = httpx2.Request(method, f"http://gateway{path}")
        return response


def error(status: int, code: str, message: str = "", **headers: str) -> httpx2.Response:
    body = {"error": {"code": code, "message": message}}
    return httpx2.Response(status, json=body, headers=headers)


# The other tenant's adapter


def named(path: str, content: dict[str, Any]) -> str:
    body = content.get("json") or {}
    return str(body.get("model") or path.split("/")[3])


def test_an_adapter_that_looks_like_none_passes() -> None:
    def answer(_: str, path: str, content: dict[str, Any]) -> httpx2.Response:
        name = named(path, content)
        return error(404, "model_not_found", f"The model '{name}' does not exist")

    bar = security.strangers_adapter(ScriptedGateway(answer), "mail")
    assert bar.holds


@pytest.mark.parametrize(
    "giveaway",
    [
        error(403, "model_not_found", "no"),
        error(404, "not_yours", "no"),
        error(404, "model_not_found", "no, it is acme's"),
        error(404, "model_not_found", "no", hint="acme"),
    ],
    ids=["status", "code", "text", "header"],
)
def test_an_adapter_that_can_be_told_from_none_fails(giveaway: httpx2.Response) -> None:
    def answer(method: str, path: str, content: dict[str, Any]) -> httpx2.Response:
        if named(path, content) == "mail" and method == "GET":
            return giveaway
        return error(404, "model_not_found", "no")

    assert not security.strangers_adapter(ScriptedGateway(answer), "mail").holds


# Tampered and foreign packages


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "adapter.tssp"
    path.write_bytes(bytes(range(256)) * 16)
    return path


def store(package: Path, refusal: httpx2.Response | None) -> ScriptedGateway:
    """A gateway that takes the genuine package, and answers any other with `refusal`."""
    stored: list[bytes] = []

    def answer(method: str, _: str, content: dict[str, Any]) -> httpx2.Response:
        if method == "GET":
            return httpx2.Response(200, json={"data": len(stored)})
        if content["content"] != package.read_bytes() and refusal is not None:
            return refusal
        stored.append(content["content"])
        return httpx2.Response(201, json={})

    return ScriptedGateway(answer)


def test_a_gateway_that_refuses_tampered_packages_passes(package: Path) -> None:
    bar = security.tampered_package(store(package, error(422, "digest_mismatch")), package)
    assert bar.holds


@pytest.mark.parametrize(
    "refusal",
    [None, error(409, "conflict"), error(500, "internal_error")],
    ids=["takes anything", "refuses for another reason", "breaks"],
)
def test_a_gateway_that_does_not_tell_tampering_fails(
    package: Path, refusal: httpx2.Response | None
) -> None:
    assert not security.tampered_package(store(package, refusal), package).holds


def test_a_gateway_that_refuses_even_the_genuine_package_fails(package: Path) -> None:
    def answer(method: str, *_: Any) -> httpx2.Response:
        return httpx2.Response(200, json=[]) if method == "GET" else error(422, "digest_mismatch")

    assert not security.tampered_package(ScriptedGateway(answer), package).holds


def test_a_gateway_that_takes_another_tenants_package_fails(package: Path) -> None:
    assert not security.foreign_package(store(package, None), package).holds
    refusing = ScriptedGateway(lambda *_: error(422, "unknown_signer"))
    assert security.foreign_package(refusing, package).holds


# A revoked key


@pytest.mark.parametrize(
    ("statuses", "holds"),
    [([200, 200, 401, 401], True), ([401, 401, 401], False), ([200, 200, 500, 500], False)],
    ids=["stops", "never worked", "breaks instead"],
)
def test_a_revoked_key_must_have_worked_and_be_refused(
    monkeypatch: pytest.MonkeyPatch, statuses: list[int], holds: bool
) -> None:
    pending = iter(statuses)
    holder = ScriptedGateway(lambda *_: httpx2.Response(next(pending)))
    monkeypatch.setattr(ScriptedGateway, "__exit__", lambda *_: None)
    monkeypatch.setattr(security, "Http", lambda *_: holder)
    admin = ScriptedGateway(lambda *_: httpx2.Response(200, json={"id": "k", "key": "text"}))
    tenant = Tenant("acme", "mail", "key", PublisherPrivateKey.generate())
    assert security.revoked_key(admin, "http://gateway", tenant).holds is holds


def test_a_revoked_key_that_goes_on_working_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "_GIVE_UP_S", 0.2)
    holder = ScriptedGateway(lambda *_: httpx2.Response(200))
    monkeypatch.setattr(ScriptedGateway, "__exit__", lambda *_: None)
    monkeypatch.setattr(security, "Http", lambda *_: holder)
    admin = ScriptedGateway(lambda *_: httpx2.Response(200, json={"id": "k", "key": "text"}))
    tenant = Tenant("acme", "mail", "key", PublisherPrivateKey.generate())
    assert not security.revoked_key(admin, "http://gateway", tenant).holds


# The audit log


def exported_log() -> bytes:
    head, lines = AuditHead(0, GENESIS), [bound_line("start", AuditHead(0, GENESIS))]
    for sequence in range(1, 6):
        record = json.dumps(
            {"kind": "request.started", "sequence": sequence}, separators=(",", ":")
        ).encode()
        head = AuditHead(sequence, chain_hash(head.hash, record))
        lines.append(record_line(ChainedRecord(sequence, record, head.hash)))
    return b"".join([*lines, bound_line("head", head)])


def test_a_log_that_verifies_and_shows_every_change_passes() -> None:
    log = exported_log()
    bars = security.audit_log(ScriptedGateway(lambda *_: httpx2.Response(200, content=log)))
    assert [bar.holds for bar in bars] == [True, True]


def test_a_verifier_that_notices_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "verify_export", lambda _: AuditHead(5, GENESIS))
    bars = security.audit_log(ScriptedGateway(lambda *_: httpx2.Response(200, content=b"x" * 99)))
    assert [bar.holds for bar in bars] == [True, False]


# What is at rest


def test_weights_or_keys_in_any_file_fail(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"the weights are WEIGHTS and the key is KEY")
    found = security.nothing_at_rest(tmp_path, weights=[b"WEIGHTS"], keys=["KEY"])
    assert [bar.holds for bar in found] == [False, False]
    clean = security.nothing_at_rest(tmp_path, weights=[b"OTHER"], keys=["ELSE"])
    assert [bar.holds for bar in clean] == [True, True]


def test_looking_for_nothing_fails(tmp_path: Path) -> None:
    bars = security.nothing_at_rest(tmp_path, weights=[], keys=[])
    assert not any(bar.holds for bar in bars)


# What the adapters are worth


def result(
    *, base: float, own: float, other: float, privacy: PrivacyStatement | None = None
) -> TenantResult:
    return TenantResult(
        tenant="acme",
        adapter="mail",
        subject="mail",
        training=AdapterReady("acme", 10, 100, 5.0, 4.0, 1.0, privacy or NoPrivacy(dataset="x")),
        talk=Talk(10.0, 5.0, "a", "b", "c", "d", Likelihood(base, own, other, 1000)),
    )


def private(epsilon: float) -> DpSgdPrivacy:
    return DpSgdPrivacy(
        dataset="x",
        unit="example",
        sampling="poisson",
        events=(GaussianDpEvent(noise_multiplier=1.0),),
        delta=1e-5,
        claimed_epsilon=epsilon,
        accountant="rdp",
        library_versions={},
    )


@pytest.mark.parametrize(
    ("likelihoods", "holds"),
    [
        ({"base": -4.0, "own": -3.5, "other": -4.2}, [True, True]),
        ({"base": -4.0, "own": -4.0, "other": -4.2}, [False, True]),
        ({"base": -4.0, "own": -3.5, "other": -3.5}, [True, False]),
    ],
    ids=["helps", "does nothing", "is no better than the other's"],
)
def test_an_adapter_must_beat_the_base_and_the_others(
    likelihoods: dict[str, float], holds: list[bool]
) -> None:
    assert [bar.holds for bar in result(**likelihoods).bars()] == holds


@pytest.mark.parametrize(("epsilon", "holds"), [(3.0, True), (12.0, False)])
def test_epsilon_must_mean_something(epsilon: float, holds: bool) -> None:
    bars = result(base=-4, own=-3, other=-5, privacy=private(epsilon)).bars()
    assert bars[-1].holds is holds


def test_the_outcome_holds_only_if_every_check_does_whatever_the_time() -> None:
    def outcome(*checks: bool) -> Outcome:
        bars = [Bar("x", "y", "z", holds) for holds in checks]
        return Outcome([result(base=-4, own=-3, other=-5)], Throughput(2, 10, 5.0), bars)

    slow = outcome(True)
    slow.add_time(1e6, made_model=False)
    assert slow.holds
    assert not slow.report().holds
    assert not outcome(True, False).holds


# Messages of the training process


def test_messages_arrive_once_each_and_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "messages"
    path.touch()
    writer, reader = MessageWriter(path), MessageReader(path)
    writer.send(Progressed("base", 1, 10, 5.0))
    assert list(reader) == [Progressed("base", 1, 10, 5.0)]
    with path.open("ab") as file:
        file.write(b'{"type":"model_')
    assert list(reader) == []
    with path.open("ab") as file:
        file.write(b'ready"}\n')
    assert list(reader) == [ModelReady()]
    assert list(reader) == []
