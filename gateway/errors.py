"""The gateway's errors; `gateway/api/problems.py` alone knows their HTTP status.

GatewayError
  InvalidRequestError         the caller's request is wrong: says what was expected
    PayloadTooLargeError  RequestTimeoutError  UnsupportedMediaTypeError  MethodNotAllowedError
  AuthenticationError         no valid key; one text for every reason
  PermissionDeniedError       the key lacks the scope
  NotFoundError               not there, or not yours: the same answer
    ModelNotFoundError  UnknownRouteError
  ConflictError               the state changed under the caller, or already exists
  LifecycleError              this adapter cannot make that move
  RateLimitedError(retry_after_s)
  OverloadedError(retry_after_s)
  ConfigurationError          a setting cannot work on this machine: says which and why
  AuditUnavailableError       no record could be written, so nothing was served
  StoreUnavailableError       the database or object store is away
  UpstreamError               UpstreamUnavailableError, UpstreamTimeoutError, UpstreamProtocolError
    EngineFailedError         the engine itself says that it failed this request
"""

from __future__ import annotations

from typing import ClassVar


class GatewayError(Exception):
    """Root of every error that the gateway raises on purpose."""

    code: ClassVar[str] = "internal_error"


class InvalidRequestError(GatewayError):
    """The caller's request is wrong; `param` names the field."""

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.detail_code = code


class PayloadTooLargeError(InvalidRequestError):
    """The body is larger than the limit, counted as it came."""

    code = "payload_too_large"


class RequestTimeoutError(InvalidRequestError):
    """The body came too slowly."""

    code = "request_timeout"


class UnsupportedMediaTypeError(InvalidRequestError):
    """The content type or content encoding is not accepted here."""

    code = "unsupported_media_type"


class MethodNotAllowedError(InvalidRequestError):
    """The path exists, the method does not."""

    code = "method_not_allowed"


class AuthenticationError(GatewayError):
    """No valid API key: missing, malformed, unknown, expired or revoked, told apart by nobody."""

    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("Incorrect API key provided, or the key has expired or was revoked.")


class PermissionDeniedError(GatewayError):
    """The key is valid and lacks the scope."""

    code = "insufficient_scope"


class NotFoundError(GatewayError):
    """The thing does not exist, or belongs to somebody else: one answer for both."""

    code = "not_found"


class ModelNotFoundError(NotFoundError):
    """No model of this name that the caller may use. The name is not repeated: one text for all."""

    code = "model_not_found"

    def __init__(self) -> None:
        super().__init__("The model does not exist or you do not have access to it.")
        self.param = "model"


class UnknownRouteError(NotFoundError):
    """No route has this path."""

    code = "unknown_url"

    def __init__(self) -> None:
        super().__init__("Unknown request URL. Please check it for typos.")


class ConflictError(GatewayError):
    """It already exists, or changed since the caller looked."""

    code = "conflict"


class LifecycleError(GatewayError):
    """The adapter's state does not allow this move."""

    code = "invalid_adapter_state"


class RateLimitedError(GatewayError):
    """A limit of the caller's own is used up."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(GatewayError):
    """The service is full; the caller may come back."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AuditUnavailableError(GatewayError):
    """No audit record could be written, so nothing was served."""

    code = "audit_unavailable"


class StoreUnavailableError(GatewayError):
    """The database or the object store cannot be reached."""

    code = "store_unavailable"


class UpstreamError(GatewayError):
    """The base-model pool failed."""

    code = "upstream_error"


class UpstreamUnavailableError(UpstreamError):
    """The pool cannot be reached or is not ready."""

    code = "upstream_unavailable"


class UpstreamTimeoutError(UpstreamError):
    """The pool went silent for longer than allowed."""

    code = "upstream_timeout"


class UpstreamProtocolError(UpstreamError):
    """The pool answered with something that is not its protocol."""

    code = "upstream_protocol_error"


class EngineFailedError(UpstreamError):
    """The engine itself says that it failed this request: for an adapter, a reason to renew it."""

    code = "engine_failed"


class ConfigurationError(GatewayError):
    """A setting cannot work on this machine; found at start, told to the operator."""

    code = "wrong_setting"
