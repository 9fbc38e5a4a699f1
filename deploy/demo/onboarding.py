"""From nothing to a served adapter, over HTTP: a tenant, its keys, its package."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from adapter_store.base_model import BaseModelRef
from adapter_store.tssp.format import PACKAGE_MEDIA_TYPE
from adapter_store.tssp.privacy import PrivacyStatement
from adapter_store.tssp.recipients import IngestPublicKey
from adapter_store.tssp.signing import PublisherPrivateKey
from adapter_store.tssp.writer import pack
from adapter_store.types import parse_adapter_name, parse_tenant_id
from gateway.cli.errors import CliError

SCOPES = ("inference", "adapters:read", "adapters:write")
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Tenant:
    """A customer of the gateway, with everything that only the customer has."""

    id: str
    adapter: str  # what it calls its adapter
    api_key: str = field(repr=False)
    publisher: PublisherPrivateKey = field(repr=False)


class Http:
    """The gateway's HTTP API with one key; an unexpected answer is an error that shows it."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._client = httpx2.Client(
            base_url=base_url,
            headers={"authorization": f"Bearer {api_key}"},
            timeout=_TIMEOUT_S,
            trust_env=False,  # a proxy has no business between here and this machine
        )

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(self, method: str, path: str, **content: Any) -> httpx2.Response:
        """The answer, whatever it is."""
        return self._client.request(method, path, **content)

    def call(self, method: str, path: str, **content: Any) -> Any:
        """The JSON of a successful answer; raises CliError for any other."""
        answer = self.send(method, path, **content)
        if answer.is_error:
            raise CliError(
                f"{method} {path} was answered with {answer.status_code}: {answer.text[:500]}"
            )
        return answer.json()


def create_tenant(admin: Http, tenant: str, *, name: str, adapter: str) -> Tenant:
    """Create the tenant, an API key and a registered publisher key for it."""
    admin.call("POST", "/admin/v1/tenants", json={"id": tenant, "display_name": name})
    issued = issue_key(admin, tenant, scopes=SCOPES)
    publisher = PublisherPrivateKey.generate()
    public_key = msgspec.json.decode(publisher.public_key.to_json())
    admin.call(
        "POST",
        f"/admin/v1/tenants/{tenant}/publisher-keys",
        json={"public_key": public_key, "label": "demo"},
    )
    return Tenant(id=tenant, adapter=adapter, api_key=issued["key"], publisher=publisher)


def issue_key(admin: Http, tenant: str, *, scopes: tuple[str, ...]) -> dict[str, str]:
    """A new API key's `id` and `key`."""
    body = {"tenant": tenant, "scopes": list(scopes), "label": "demo"}
    issued: dict[str, str] = admin.call("POST", "/admin/v1/keys", json=body)
    return issued


def pack_adapter(
    http: Http,
    tenant: Tenant,
    adapter_dir: Path,
    package: Path,
    *,
    privacy: PrivacyStatement,
    version: int = 1,
) -> None:
    """Encrypt and sign the adapter for the deployment behind `http`."""
    base_model = http.call("GET", "/v1/base-model")
    ingest_key = http.call("GET", "/v1/adapters/ingest-key")
    with package.open("xb") as out:
        pack(
            adapter_dir,
            out,
            tenant=parse_tenant_id(tenant.id),
            name=parse_adapter_name(tenant.adapter),
            version=version,
            base_model=BaseModelRef(id=base_model["id"], fingerprint=base_model["fingerprint"]),
            signer=tenant.publisher,
            recipients=[IngestPublicKey.of(base64.b64decode(ingest_key["public_key"]))],
            privacy=privacy,
            description=f"{tenant.id}'s adapter of the demo",
        )


def serve_package(http: Http, package: Path) -> dict[str, Any]:
    """Upload the package and have it served; returns the adapter as the gateway shows it."""
    uploaded = upload(http, package.read_bytes())
    if uploaded.is_error:
        raise CliError(f"the upload of {package.name} was refused: {uploaded.text[:500]}")
    digest = uploaded.json()["digest"]
    activated: dict[str, Any] = http.call("POST", f"/v1/adapters/{digest}/activate")
    return activated


def upload(http: Http, package: bytes) -> httpx2.Response:
    """The answer to an upload, whatever it is."""
    headers = {"content-type": PACKAGE_MEDIA_TYPE}
    return http.send("POST", "/v1/adapters", content=package, headers=headers)
