"""One table: error type → HTTP status, OpenAI `type`, and what a stranger may read of it.

Only this module knows status codes. An error's own text reaches the client only where the table
says `OWN_TEXT`; everything that is our fault has a fixed sentence, because the text of a fault
names files, sockets and engines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from adapter_store import errors as store
from gateway import errors as gateway
from gateway.adapters.pool_control import AdmissionRefusedError

OWN_TEXT: Final = None
"""Marks an error whose own message is written for the caller."""

_MAX_MESSAGE_CHARS: Final = 1000
_UNEXPECTED_CODE: Final = "internal_error"


class ErrorBody(msgspec.Struct, frozen=True):
    """The `error` object of the OpenAI API."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(msgspec.Struct, frozen=True):
    """What every failed call answers, and what a failed stream ends with."""

    error: ErrorBody


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of the table. `text` replaces the error's message unless it is OWN_TEXT."""

    status: int
    type: str
    text: str | None = OWN_TEXT


_CALLER = "invalid_request_error"
_OURS = "server_error"

PROBLEMS: Final[dict[type[Exception], Problem]] = {
    gateway.GatewayError: Problem(500, _OURS, "The server had an error. Please try again."),
    gateway.InvalidRequestError: Problem(400, _CALLER),
    gateway.PayloadTooLargeError: Problem(413, _CALLER),
    gateway.RequestTimeoutError: Problem(408, _CALLER),
    gateway.UnsupportedMediaTypeError: Problem(415, _CALLER),
    gateway.MethodNotAllowedError: Problem(405, _CALLER),
    gateway.AuthenticationError: Problem(401, "authentication_error"),
    gateway.PermissionDeniedError: Problem(403, "permission_error"),
    gateway.NotFoundError: Problem(404, _CALLER),
    gateway.ConflictError: Problem(409, "conflict_error"),
    gateway.LifecycleError: Problem(409, "conflict_error"),
    AdmissionRefusedError: Problem(422, _CALLER),
    gateway.RateLimitedError: Problem(429, "rate_limit_error"),
    gateway.OverloadedError: Problem(503, "overloaded_error"),
    gateway.AuditUnavailableError: Problem(
        503, _OURS, "No audit record can be written, so nothing is served. Please try again."
    ),
    gateway.StoreUnavailableError: Problem(
        503, _OURS, "A store that this request needs is unavailable. Please try again."
    ),
    gateway.UpstreamError: Problem(502, _OURS, "The model failed to answer. Please try again."),
    gateway.UpstreamUnavailableError: Problem(
        503, _OURS, "The model is not available at the moment. Please try again."
    ),
    gateway.UpstreamTimeoutError: Problem(
        504, _OURS, "The model did not answer in time. Please try again."
    ),
    gateway.UpstreamProtocolError: Problem(
        502, _OURS, "The model's answer was broken. Please try again."
    ),
    store.AdapterStoreError: Problem(500, _OURS, "The adapter store had an error."),
    store.FormatError: Problem(422, _CALLER),
    store.InvalidNameError: Problem(400, _CALLER),
    store.VerificationError: Problem(422, _CALLER),
    store.KeyProviderError: Problem(503, _OURS, "A key that this request needs is unavailable."),
    store.StorageError: Problem(503, _OURS, "The adapter store is unavailable. Please try again."),
}

_UNEXPECTED: Final = PROBLEMS[gateway.GatewayError]


def problem_of(error: Exception) -> Problem:
    """Return the nearest row of the table; anything unexpected is a plain 500."""
    for ancestor in type(error).__mro__:
        if ancestor in PROBLEMS:
            return PROBLEMS[ancestor]
    return _UNEXPECTED


def error_code(error: Exception) -> str:
    """Return the stable name of an error, for clients, logs and metrics."""
    match error:
        case AdmissionRefusedError():
            return error.reason_code
        case gateway.InvalidRequestError() if error.detail_code is not None:
            return error.detail_code
        case gateway.GatewayError() | store.AdapterStoreError():
            return error.code
        case _:
            return _UNEXPECTED_CODE


def error_envelope(error: Exception) -> ErrorEnvelope:
    """Return what the client reads about `error`."""
    problem = problem_of(error)
    text = str(error) if problem.text is OWN_TEXT else problem.text
    return ErrorEnvelope(
        ErrorBody(
            message=text[:_MAX_MESSAGE_CHARS],
            type=problem.type,
            param=getattr(error, "param", None),
            code=error_code(error),
        )
    )


def problem_response(error: Exception, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response for `error`, with `headers` and those that its status asks for."""
    problem = problem_of(error)
    own: dict[str, str] = {}
    if isinstance(error, gateway.AuthenticationError):
        own["www-authenticate"] = 'Bearer realm="tensafe"'
    if isinstance(error, gateway.RateLimitedError | gateway.OverloadedError):
        own["retry-after"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, gateway.RequestTimeoutError | gateway.PayloadTooLargeError):
        own["connection"] = "close"  # the rest of the body is not wanted
    return Response(
        msgspec.json.encode(error_envelope(error)),
        status_code=problem.status,
        headers={**(headers or {}), **own},
        media_type="application/json",
    )


def router_error(error: HTTPException) -> gateway.GatewayError:
    """Return the router's own exception as ours. The path is a stranger's text: not repeated."""
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            return gateway.UnknownRouteError()
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return gateway.MethodNotAllowedError("This URL exists, but not for this HTTP method.")
        case _:
            return gateway.GatewayError(error.detail)
