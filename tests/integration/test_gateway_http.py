"""The whole gateway over HTTP, on SQLite and real keys: only the pool and the engine are fakes."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import openai
import pytest

from adapter_store.keys.keyring import create_keyrings, load_gateway_keys
from gateway.app import create_app
from gateway.audit.log import open_audit_log
from gateway.audit.verify import AuditTamperedError, verify_export
from gateway.clock import SystemClock
from gateway.db.engine import open_database
from gateway.db.migrations.run import migrate
from gateway.services import open_services
from gateway.settings import GatewaySettings
from gateway.tenancy.api_keys import ApiKeys
from gateway.tenancy.key_text import Pepper
from gateway.tenancy.principal import LOCAL_OPERATOR
from gateway.tenancy.scopes import Scope
from tests.fakes.engine import FakeEngine, Status
from tests.fakes.packages import BASE_MODEL, World, adapter_folder
from tests.fakes.pool import FakePoolProcess
from tests.fakes.server import served_on_port, served_on_socket

PACKAGE = "application/vnd.tensafe.tssp"
MESSAGES = [{"role": "user", "content": "Hi"}]
REVOKED_WITHIN_S = 5.0


async def first_admin_key(settings: GatewaySettings) -> str:
    """Issue the operator's first key, as `tensafe gateway init` does."""
    keys = load_gateway_keys(settings.keyring)
    clock = SystemClock()
    async with open_database(settings.database_url) as database:
        await migrate(database)
        async with open_audit_log(database, clock, timeout_s=2) as audit:
            api_keys = ApiKeys(
                database,
                audit,
                clock,
                pepper=Pepper(keys.pepper_version, keys.pepper),
                environment=settings.environment,
            )
            issued = await api_keys.issue(
                LOCAL_OPERATOR, tenant=None, scopes={Scope.ADMIN, Scope.AUDIT_READ}
            )
            return issued.text.reveal()


@dataclass
class Deployment:
    """A gateway in a folder of its own, with its operator's key."""

    url: str
    home: Path
    admin_key: str
    engine: FakeEngine
    pool: FakePoolProcess
    world: World = field(default_factory=World)

    def client(self, key: str) -> httpx2.Client:
        return httpx2.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"},
            timeout=30,
            trust_env=False,
            verify=False,
        )

    def admin(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        with self.client(self.admin_key) as client:
            response = client.request(method, f"/admin/v1{path}", json=body)
        assert response.status_code == status, response.text
        return response.json()

    def new_tenant(self, tenant: str) -> str:
        """Create a tenant that trusts the world's publisher; return its key."""
        self.admin("POST", "/tenants", {"id": tenant, "display_name": tenant.title()}, 201)
        public_key = json.loads(self.world.publisher.public_key.to_json())
        self.admin("POST", f"/tenants/{tenant}/publisher-keys", {"public_key": public_key}, 201)
        scopes = ["inference", "adapters:read", "adapters:write"]
        issued = self.admin("POST", "/keys", {"tenant": tenant, "scopes": scopes}, 201)
        return str(issued["key"])


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    home = Path(tempfile.mkdtemp(prefix="ts-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        create_keyrings(home / "keys")
        (home / "pool").mkdir(mode=0o700)
        settings = GatewaySettings(home=home, key_cache_ttl_s=0.2, alias_cache_ttl_s=0.2)
        engine, pool = FakeEngine(), FakePoolProcess()
        base = {"id": "tiny", "fingerprint": BASE_MODEL.fingerprint}
        limits = {"max_lora_rank": 8, "max_model_len": 512}
        pool.answers["/base-model"] = (200, {**base, **limits})
        pool.answers["/ingest-keys/globex"] = pool.answers["/ingest-keys/acme"]
        stack.enter_context(served_on_socket(engine, settings.engine_socket))
        stack.enter_context(served_on_socket(pool, settings.control_socket))
        admin_key = anyio.run(first_admin_key, settings)
        app = create_app(lambda: open_services(settings), settings)
        port = stack.enter_context(served_on_port(app))
        yield Deployment(f"http://127.0.0.1:{port}", home, admin_key, engine, pool)


@pytest.fixture(scope="module")
def acme(deployment: Deployment) -> str:
    return deployment.new_tenant("acme")


@pytest.fixture(scope="module")
def globex(deployment: Deployment) -> str:
    return deployment.new_tenant("globex")


@pytest.fixture(scope="module")
def package(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return deployment.world.pack(adapter_folder(tmp_path_factory.mktemp("a") / "adapter"))


@pytest.fixture(scope="module")
def served(deployment: Deployment, acme: str, package: bytes) -> dict[str, Any]:
    """The adapter `support` of acme, uploaded and activated."""
    with deployment.client(acme) as client:
        uploaded = client.post("/v1/adapters", content=package, headers={"content-type": PACKAGE})
        assert uploaded.status_code == 201, uploaded.text
        assert (uploaded.json()["state"], uploaded.json()["served"]) == ("uploaded", False)
        activated = client.post("/v1/adapters/support/activate")
        assert activated.status_code == 200, activated.text
        return dict(activated.json())


def test_an_adapter_is_uploaded_activated_and_called(
    deployment: Deployment, acme: str, served: dict[str, Any]
) -> None:
    assert (served["state"], served["served"], served["version"]) == ("active", True, 1)
    with openai.OpenAI(api_key=acme, base_url=f"{deployment.url}/v1", max_retries=0) as sdk:
        assert [model.id for model in sdk.models.list()] == ["tiny", "support"]
        for model in ("support", "support@1", "tiny"):
            answer = sdk.chat.completions.create(model=model, messages=MESSAGES)
            assert answer.model == model
    names = [request.body["model"] for request in deployment.engine.requests[-3:]]
    assert names == [f"ts-acme-{served['digest']}-1"] * 2 + ["tiny"]


def test_another_tenant_cannot_tell_it_from_nothing(
    deployment: Deployment, globex: str, served: dict[str, Any]
) -> None:
    with deployment.client(globex) as client:
        for method, theirs, nothing, body in (
            ("GET", "/v1/models/support", "/v1/models/nothing", None),
            ("GET", "/v1/adapters/support", "/v1/adapters/nothing", None),
            ("GET", f"/v1/adapters/{served['digest']}", f"/v1/adapters/{'0' * 64}", None),
            ("DELETE", "/v1/adapters/support@1", "/v1/adapters/nothing@1", None),
            ("POST", "/v1/adapters/support/activate", "/v1/adapters/nothing/activate", {}),
            ("POST", "/v1/adapters/support/revoke", "/v1/adapters/nothing/revoke", {}),
        ):
            first, second = (client.request(method, path, json=body) for path in (theirs, nothing))
            assert first.status_code == second.status_code == 404
            assert first.content == second.content
        assert client.get("/v1/adapters").json()["data"] == []


def test_what_is_listed_is_what_is_there(
    deployment: Deployment, acme: str, served: dict[str, Any]
) -> None:
    with deployment.client(acme) as client:
        (listed,) = client.get("/v1/adapters").json()["data"]
        assert listed["digest"] == served["digest"]
        assert client.get("/v1/adapters/support@1").json() == listed
        assert client.get("/v1/base-model").json()["fingerprint"] == BASE_MODEL.fingerprint
        assert client.get("/v1/adapters/ingest-key").json()["algorithm"] == "hpke-xwing"


def test_bad_packages_are_refused_one_by_one(
    deployment: Deployment, acme: str, globex: str, served: dict[str, Any], package: bytes
) -> None:
    tampered = bytearray(package)
    tampered[-1] ^= 1
    headers = {"content-type": PACKAGE}
    for key, content, status in (
        (acme, package, 409),
        (acme, bytes(tampered), 422),
        (acme, package[: len(package) // 2], 422),
        (acme, package + b"x", 422),
        (acme, b"PK\x03\x04 not a package", 422),
        (acme, b"", 422),
        (globex, package, 422),
    ):
        with deployment.client(key) as client:
            response = client.post("/v1/adapters", content=content, headers=headers)
            assert response.status_code == status, response.text
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
            assert len(client.get("/v1/adapters").json()["data"]) == (1 if key == acme else 0)
    with deployment.client(acme) as client:
        assert client.post("/v1/adapters", content=package).status_code == 415


def test_an_upload_that_is_hung_up_on_leaves_nothing(
    deployment: Deployment, globex: str, package: bytes
) -> None:
    def stored() -> set[Path]:
        return {path for path in (deployment.home / "objects").rglob("*") if path.is_file()}

    before = stored()
    head = (
        f"POST /v1/adapters HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {globex}\r\n"
        f"content-type: {PACKAGE}\r\ncontent-length: {len(package)}\r\n\r\n"
    ).encode()
    address = ("127.0.0.1", int(deployment.url.rpartition(":")[2]))
    for sent in (0, 100, len(package) // 2, len(package) - 1):
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(head + package[:sent])
            time.sleep(0.05)
    deadline = time.monotonic() + 5
    while stored() != before:
        assert time.monotonic() < deadline, stored() - before
        time.sleep(0.05)
    with deployment.client(globex) as client:
        assert client.get("/v1/adapters").json()["data"] == []


def test_an_adapter_that_the_pool_refuses_is_rejected_with_its_reason(
    deployment: Deployment, acme: str, tmp_path: Path
) -> None:
    package = deployment.world.pack(adapter_folder(tmp_path / "a", seed=5), name="broken")
    admit = deployment.pool.answers["/adapters/admit"]
    error = {"error": {"code": "invalid_tensors", "message": "rank 64 is above 8"}}
    deployment.pool.answers["/adapters/admit"] = (422, error)
    try:
        with deployment.client(acme) as client:
            client.post("/v1/adapters", content=package, headers={"content-type": PACKAGE})
            response = client.post("/v1/adapters/broken/activate")
            assert (response.status_code, response.json()["error"]["code"]) == (
                422,
                "invalid_tensors",
            )
            assert client.get("/v1/adapters/broken").json()["state"] == "rejected"
            assert client.get("/v1/models/broken").status_code == 404
    finally:
        deployment.pool.answers["/adapters/admit"] = admit


def test_an_engine_failure_gives_the_adapter_a_new_engine_name(
    deployment: Deployment, acme: str, tmp_path: Path
) -> None:
    package = deployment.world.pack(adapter_folder(tmp_path / "a", seed=6), name="fragile")
    with deployment.client(acme) as client:
        client.post("/v1/adapters", content=package, headers={"content-type": PACKAGE})
        assert client.post("/v1/adapters/fragile/activate").status_code == 200
        body = {"model": "fragile", "messages": MESSAGES}
        deployment.engine.behaviour = Status(500)
        failed = client.post("/v1/chat/completions", json=body)
        deployment.engine.reset()
        assert failed.status_code == 502
        time.sleep(0.3)
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert deployment.engine.requests[-1].body["model"].endswith("-2")


def test_a_revoked_adapter_is_gone_for_good(
    deployment: Deployment, acme: str, tmp_path: Path
) -> None:
    package = deployment.world.pack(adapter_folder(tmp_path / "a", seed=7), name="withdrawn")
    with deployment.client(acme) as client:
        client.post("/v1/adapters", content=package, headers={"content-type": PACKAGE})
        client.post("/v1/adapters/withdrawn/activate")
        assert client.get("/v1/models/withdrawn").status_code == 200
        revoked = client.post("/v1/adapters/withdrawn/revoke", json={"reason": "leaked"})
        assert (revoked.status_code, revoked.json()["state"]) == (200, "revoked")
        time.sleep(0.3)
        assert client.get("/v1/models/withdrawn").status_code == 404
        assert client.post("/v1/adapters/withdrawn/activate").status_code == 409
        deleted = client.delete("/v1/adapters/withdrawn@1")
        assert (deleted.status_code, deleted.json()["state"]) == (200, "shredded")


def test_a_revoked_key_stops_working_and_a_rotated_one_overlaps(deployment: Deployment) -> None:
    scopes = {"tenant": "acme", "scopes": ["inference"]}
    issued = deployment.admin("POST", "/keys", scopes, 201)
    rotated = deployment.admin("POST", f"/keys/{issued['id']}/rotate", {"overlap_s": 600}, 201)
    for key in (issued["key"], rotated["key"]):
        with deployment.client(key) as client:
            assert client.get("/v1/models").status_code == 200
    deployment.admin("DELETE", f"/keys/{rotated['id']}")
    deadline = time.monotonic() + REVOKED_WITHIN_S
    with deployment.client(rotated["key"]) as client:
        while client.get("/v1/models").status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert client.get("/v1/models").status_code == 401
    listed = deployment.admin("GET", "/keys?tenant=acme")["data"]
    assert all("key" not in key for key in listed)


def test_an_operators_mistakes_are_named(deployment: Deployment, acme: str) -> None:
    for method, path, body, status, param in (
        ("POST", "/tenants", {"id": "acme"}, 409, None),
        ("POST", "/tenants", {"id": "NOT OK"}, 400, None),
        ("POST", "/tenants", {"idd": "x"}, 400, "idd"),
        ("GET", "/tenants/nobody", None, 404, None),
        ("POST", "/keys", {"tenant": "acme", "scopes": ["root"]}, 400, "scopes"),
        ("POST", "/keys", {"tenant": "acme", "scopes": []}, 400, "scopes"),
        ("POST", "/keys", {"tenant": "nobody", "scopes": ["inference"]}, 404, None),
        ("POST", "/keys", {"scopes": ["admin"], "expires_at": "soon"}, 400, "expires_at"),
        ("DELETE", "/keys/0000000000000000", None, 404, None),
        ("POST", "/tenants/acme/publisher-keys", {"public_key": {}}, 422, None),
        ("GET", "/audit?after=-1", None, 400, "after"),
        ("GET", "/audit?after=99999999", None, 404, None),
    ):
        error = deployment.admin(method, path, body, status)["error"]
        assert param is None or error["param"] == param


def test_the_exported_audit_log_verifies_and_not_after_one_byte(
    deployment: Deployment, served: dict[str, Any], acme: str
) -> None:
    with deployment.client(deployment.admin_key) as client:
        text = client.get("/admin/v1/audit").content
    lines = text.splitlines(keepends=True)
    assert verify_export(lines).sequence >= 5
    middle = len(lines) // 2
    flipped = bytearray(lines[middle])
    flipped[len(flipped) // 2] ^= 1
    with pytest.raises(AuditTamperedError):
        verify_export([*lines[:middle], bytes(flipped), *lines[middle + 1 :]])


def test_nothing_that_was_written_holds_a_key_or_a_prompt(
    deployment: Deployment, acme: str, served: dict[str, Any]
) -> None:
    canary = "c4n4ry prompt"
    with deployment.client(acme) as client:
        body = {"model": "support", "messages": [{"role": "user", "content": canary}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    secrets = [deployment.admin_key.encode(), acme.encode(), canary.encode()]
    found = b"".join(p.read_bytes() for p in deployment.home.rglob("*") if p.is_file())
    assert b"acme" in found  # looking works
    for secret in secrets:
        assert secret not in found
