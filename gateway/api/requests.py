"""JSON in, JSON out: the few lines that every management route shares."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from gateway.api.context import State
from gateway.api.strict_json import decode_strict
from gateway.errors import InvalidRequestError, UnsupportedMediaTypeError
from gateway.middleware.body import read_body

Body = TypeVar("Body")

Label = Annotated[str, msgspec.Meta(max_length=200)]


def json_response(value: Any, *, status: int = 200) -> Response:
    """Return `value` as JSON."""
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


async def read_json(request: Request[State], kind: type[Body]) -> Body:
    """Return the body as `kind`; raises InvalidRequestError that names the field."""
    require_json(request.scope)
    return decode_strict(await read_body(request.receive), kind)


async def read_optional_json(request: Request[State], kind: type[Body]) -> Body:
    """Return the body as `kind`, where no body at all means every default."""
    body = await read_body(request.receive)
    if body:
        require_json(request.scope)
    return decode_strict(body or b"{}", kind)


def require_json(scope: Scope) -> None:
    """Return if the body is declared as JSON; raises UnsupportedMediaTypeError."""
    require_media_type(scope, "application/json")


def require_media_type(scope: Scope, expected: str) -> None:
    """Return if the body is declared as `expected`; raises UnsupportedMediaTypeError."""
    found = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
    if found != expected:
        raise UnsupportedMediaTypeError(f"expected a body of type {expected}")


def query_int(request: Request[State], name: str, *, default: int) -> int:
    """Return a non-negative integer of the query; raises InvalidRequestError."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidRequestError("expected a non-negative integer", param=name)
    return int(text)
