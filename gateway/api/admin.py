"""The operator's routes: tenants, API keys, publisher keys, and the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from adapter_store.tssp.signing import PublisherPublicKey
from gateway.api.context import State
from gateway.api.requests import (
    Label,
    json_response,
    query_int,
    read_json,
    read_optional_json,
)
from gateway.audit.export import export
from gateway.services import Services
from gateway.tenancy.api_keys import ApiKey, IssuedKey
from gateway.tenancy.principal import Principal
from gateway.tenancy.publisher_keys import RegisteredPublisherKey
from gateway.tenancy.scopes import Scope, parse_scopes
from gateway.tenancy.tenants import Tenant

MAX_OVERLAP_S: Final = 30 * 24 * 3600
"""A rotation that overlaps for longer than a month is two keys."""

DEFAULT_OVERLAP_S: Final = 24 * 3600
_BLOCK_BYTES: Final = 64 * 1024


class TenantBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new tenant."""

    id: str
    display_name: Label = ""


class KeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new API key; without a tenant, an administrator's."""

    scopes: list[str]
    tenant: str | None = None
    label: Label = ""
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class RotateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how long the old key still works."""

    overlap_s: Annotated[float, msgspec.Meta(ge=0, le=MAX_OVERLAP_S)] = DEFAULT_OVERLAP_S


class PublisherKeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A publisher's public key, in the form in which `tensafe` writes it."""

    public_key: dict[str, Any]
    label: Label = ""


async def create_tenant(request: Request[State]) -> Response:
    """`POST /admin/v1/tenants`."""
    services, admin = _admin(request)
    body = await read_json(request, TenantBody)
    tenant = await services.tenants.create(admin, body.id, display_name=body.display_name)
    return json_response(_tenant_json(tenant), status=201)


async def list_tenants(request: Request[State]) -> Response:
    """`GET /admin/v1/tenants`."""
    services, _ = _admin(request)
    return _list(_tenant_json(each) for each in await services.tenants.list())


async def get_tenant(request: Request[State]) -> Response:
    """`GET /admin/v1/tenants/{tenant}`."""
    services, _ = _admin(request)
    return json_response(_tenant_json(await services.tenants.get(request.path_params["tenant"])))


async def disable_tenant(request: Request[State]) -> Response:
    """`DELETE /admin/v1/tenants/{tenant}`: its keys stop working; nothing is erased."""
    services, admin = _admin(request)
    tenant = await services.tenants.disable(admin, request.path_params["tenant"])
    return json_response(_tenant_json(tenant))


async def issue_key(request: Request[State]) -> Response:
    """`POST /admin/v1/keys`: the only answer that ever holds the key's text."""
    services, admin = _admin(request)
    body = await read_json(request, KeyBody)
    issued = await services.api_keys.issue(
        admin,
        tenant=body.tenant,
        scopes=parse_scopes(body.scopes),
        label=body.label,
        expires_at=body.expires_at,
    )
    return json_response(_issued_json(issued), status=201)


async def list_keys(request: Request[State]) -> Response:
    """`GET /admin/v1/keys[?tenant=…]`."""
    services, _ = _admin(request)
    keys = await services.api_keys.list(request.query_params.get("tenant"))
    return _list(_key_json(each) for each in keys)


async def rotate_key(request: Request[State]) -> Response:
    """`POST /admin/v1/keys/{key_id}/rotate`."""
    services, admin = _admin(request)
    body = await read_optional_json(request, RotateBody)
    issued = await services.api_keys.rotate(
        admin, request.path_params["key_id"], overlap_s=body.overlap_s
    )
    return json_response(_issued_json(issued), status=201)


async def revoke_key(request: Request[State]) -> Response:
    """`DELETE /admin/v1/keys/{key_id}`."""
    services, admin = _admin(request)
    key = await services.api_keys.revoke(admin, request.path_params["key_id"])
    return json_response(_key_json(key))


async def register_publisher_key(request: Request[State]) -> Response:
    """`POST /admin/v1/tenants/{tenant}/publisher-keys`."""
    services, admin = _admin(request)
    body = await read_json(request, PublisherKeyBody)
    registered = await services.publisher_keys.register(
        admin,
        request.path_params["tenant"],
        PublisherPublicKey.from_json(msgspec.json.encode(body.public_key)),
        label=body.label,
    )
    return json_response(_publisher_key_json(registered), status=201)


async def list_publisher_keys(request: Request[State]) -> Response:
    """`GET /admin/v1/tenants/{tenant}/publisher-keys`."""
    services, _ = _admin(request)
    keys = await services.publisher_keys.list(request.path_params["tenant"])
    return _list(_publisher_key_json(each) for each in keys)


async def revoke_publisher_key(request: Request[State]) -> Response:
    """`DELETE /admin/v1/tenants/{tenant}/publisher-keys/{key_id}`."""
    services, admin = _admin(request)
    key = await services.publisher_keys.revoke(
        admin, request.path_params["tenant"], request.path_params["key_id"]
    )
    return json_response(_publisher_key_json(key))


async def export_audit(request: Request[State]) -> Response:
    """`GET /admin/v1/audit[?after=…]`: the whole log as JSON lines, verifiable offline."""
    caller = request.state["context"].caller
    if Scope.ADMIN not in caller.scopes:
        caller.require(Scope.AUDIT_READ)
    if caller.tenant is not None:
        # The chain is one for all tenants, so it is the operator's; excerpts come with proofs.
        caller.require(Scope.ADMIN)
    after = query_int(request, "after", default=0)
    lines = _in_blocks(export(request.state["services"].database, after=after))
    first = await anext(lines)  # what fails at once, fails with a status
    return StreamingResponse(_following(first, lines), media_type="application/jsonl")


_TENANT: Final = "/admin/v1/tenants/{tenant}"

routes = [
    Route("/admin/v1/tenants", create_tenant, methods=["POST"]),
    Route("/admin/v1/tenants", list_tenants, methods=["GET"]),
    Route(_TENANT, get_tenant, methods=["GET"]),
    Route(_TENANT, disable_tenant, methods=["DELETE"]),
    Route(f"{_TENANT}/publisher-keys", register_publisher_key, methods=["POST"]),
    Route(f"{_TENANT}/publisher-keys", list_publisher_keys, methods=["GET"]),
    Route(f"{_TENANT}/publisher-keys/{{key_id}}", revoke_publisher_key, methods=["DELETE"]),
    Route("/admin/v1/keys", issue_key, methods=["POST"]),
    Route("/admin/v1/keys", list_keys, methods=["GET"]),
    Route("/admin/v1/keys/{key_id}/rotate", rotate_key, methods=["POST"]),
    Route("/admin/v1/keys/{key_id}", revoke_key, methods=["DELETE"]),
    Route("/admin/v1/audit", export_audit, methods=["GET"]),
]


def _admin(request: Request[State]) -> tuple[Services, Principal]:
    caller = request.state["context"].caller
    caller.require(Scope.ADMIN)
    return request.state["services"], caller


async def _in_blocks(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield lines in blocks: one write for each would take longer than reading them."""
    block = bytearray()
    async for line in lines:
        block += line
        if len(block) >= _BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    yield bytes(block)


async def _following(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in rest:
        yield block


def _list(items: Any) -> Response:
    return json_response({"object": "list", "data": list(items)})


def _tenant_json(tenant: Tenant) -> dict[str, Any]:
    return {
        "object": "tenant",
        "id": tenant.id,
        "display_name": tenant.display_name,
        "created_at": tenant.created_at,
        "disabled_at": tenant.disabled_at,
    }


def _key_json(key: ApiKey) -> dict[str, Any]:
    return {
        "object": "api_key",
        "id": key.key_id,
        "tenant": key.tenant,
        "label": key.label,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "replaced_by": key.replaced_by,
    }


def _issued_json(issued: IssuedKey) -> dict[str, Any]:
    return {**_key_json(issued.key), "key": issued.text.reveal()}


def _publisher_key_json(key: RegisteredPublisherKey) -> dict[str, Any]:
    return {
        "object": "publisher_key",
        "id": key.public_key.key_id,
        "tenant": key.tenant,
        "label": key.label,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }
