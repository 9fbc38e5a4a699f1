"""Bad packages over HTTP: each has its own error, and nothing of it stays anywhere."""

from __future__ import annotations

import base64
import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_store.base_model import BaseModelRef
from adapter_store.tssp.format import PACKAGE_MEDIA_TYPE
from adapter_store.tssp.privacy import NoPrivacy
from adapter_store.tssp.recipients import IngestPublicKey
from adapter_store.tssp.signing import PublisherPrivateKey
from adapter_store.tssp.writer import pack
from adapter_store.types import parse_adapter_name, parse_tenant_id
from tests.stack.deployment import Customer, Deployment

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def package(deployment: Deployment) -> bytes:
    """A good package of acme that was never uploaded."""
    return deployment.package(deployment.acme, version=50).read_bytes()


def upload(
    deployment: Deployment, customer: Customer, content: bytes, **headers: str
) -> tuple[int, str]:
    with deployment.http(customer) as client:
        answer = client.post(
            "/v1/adapters",
            content=content,
            headers={"content-type": PACKAGE_MEDIA_TYPE, **headers},
        )
    return answer.status_code, answer.json()["error"]["code"]


def _flipped(position: int) -> Callable[[bytes], bytes]:
    def change(package: bytes) -> bytes:
        changed = bytearray(package)
        changed[position] ^= 1
        return bytes(changed)

    return change


BAD = {
    "not a package": (lambda _: b"PK\x03\x04" + bytes(100), 422, "not_a_package"),
    "a pickle": (lambda _: pickle.dumps({"weights": [0.0] * 100}), 422, "not_a_package"),
    "cut short": (lambda package: package[:-1000], 422, "truncated"),
    "too long": (lambda package: package + b"x", 422, "trailing_data"),
    "one bit of the weights changed": (_flipped(-500), 422, "digest_mismatch"),
    "one bit of the signed manifest changed": (_flipped(300), 422, None),
    "empty": (lambda _: b"", 422, "truncated"),
    "larger than allowed": (lambda package: package + bytes(9 << 20), 413, "payload_too_large"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_package_is_refused_and_leaves_nothing(
    deployment: Deployment, package: bytes, what: str
) -> None:
    change, status, code = BAD[what]
    before = deployment.objects(), _rows(deployment)
    found = upload(deployment, deployment.acme, change(package))
    assert found[0] == status
    assert code is None or found[1] == code
    assert (deployment.objects(), _rows(deployment)) == before


def test_the_same_package_unharmed_is_accepted(deployment: Deployment, package: bytes) -> None:
    """The control: it was the change that was refused."""
    with deployment.http(deployment.acme) as client:
        answer = client.post(
            "/v1/adapters", content=package, headers={"content-type": PACKAGE_MEDIA_TYPE}
        )
        assert answer.status_code == 201, answer.text
        # Replayed, it is refused, and the one that was there stays.
        digest = answer.json()["digest"]
        assert upload(deployment, deployment.acme, package)[0] == 409
        assert client.get(f"/v1/adapters/{digest}").status_code == 200
        assert client.delete(f"/v1/adapters/{digest}").status_code == 200


def test_another_tenants_package_is_refused(deployment: Deployment, package: bytes) -> None:
    before = deployment.objects(), _rows(deployment)
    status, code = upload(deployment, deployment.globex, package)
    assert (status, code) == (422, "unknown_signer")
    assert (deployment.objects(), _rows(deployment)) == before


def test_a_package_for_another_tenant_is_refused_though_its_signer_is_trusted(
    deployment: Deployment, package: bytes
) -> None:
    public = f"{deployment.acme.publisher_key}.pub"
    registered = deployment.run("key", "publisher", "register", "globex", public)
    assert upload(deployment, deployment.globex, package) == (422, "wrong_tenant")
    deployment.run("key", "publisher", "revoke", "globex", registered["id"])


def test_a_package_for_another_base_model_is_refused(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Packed for a model of another shape: never served, whoever signed it."""
    output = tmp_path / "wrong.tssp"
    with deployment.http(deployment.acme) as client, output.open("wb") as file:
        key = client.get("/v1/adapters/ingest-key").json()
        pack(
            deployment.acme.adapter_dir,
            file,
            tenant=parse_tenant_id("acme"),
            name=parse_adapter_name("support"),
            version=51,
            base_model=BaseModelRef(id="other", fingerprint="1" * 64),
            signer=PublisherPrivateKey.from_json(deployment.acme.publisher_key.read_bytes()),
            recipients=[IngestPublicKey.of(base64.b64decode(key["public_key"]))],
            privacy=NoPrivacy(dataset="test"),
        )
    found = upload(deployment, deployment.acme, output.read_bytes())
    assert found == (422, "wrong_base_model")


def test_a_compressed_or_mislabelled_upload_is_refused(
    deployment: Deployment, package: bytes
) -> None:
    found = upload(deployment, deployment.acme, package, **{"content-encoding": "gzip"})
    assert found[0] == 415
    found = upload(deployment, deployment.acme, package, **{"content-type": "application/json"})
    assert found[0] == 415


def _rows(deployment: Deployment) -> list[tuple[object, ...]]:
    """Return every row about adapters."""
    with sqlite3.connect(deployment.stack.home / "gateway.db") as database:
        tables = [
            name
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if "adapter" in name or "alias" in name
        ]
        assert tables
        return [row for table in tables for row in database.execute(f"SELECT * FROM {table}")]
