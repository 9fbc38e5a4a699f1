"""The boundary that no exception crosses: each becomes an answer, or the end of one."""

from __future__ import annotations

import traceback
from collections.abc import Mapping

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapter_store.errors import AdapterStoreError
from gateway.api.context import state_of
from gateway.api.problems import error_code, problem_of, problem_response, router_error
from gateway.errors import GatewayError
from gateway.routing.disconnect import ClientGoneError

_log = structlog.get_logger(__name__)

_SERVER_ERROR = 500


class ErrorBoundaryMiddleware:
    """Answers for every error below it, by the table in `api/problems.py`.

    Once a response has begun nothing can be said any more: returning without its last byte makes
    the server close the connection, so the client sees that it was cut.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False
        failure: Exception
        headers: Mapping[str, str] | None = None

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except ClientGoneError:
            raise  # nobody is left to answer
        except HTTPException as error:
            failure, headers = router_error(error), error.headers
        except (GatewayError, AdapterStoreError) as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - the last boundary: a bug in one request must not show its text to a client or to uvicorn's log
            failure = error
        else:
            return
        _note(scope, failure)
        if not started:
            await problem_response(failure, headers)(scope, receive, send)


def _note(scope: Scope, error: Exception) -> None:
    """Log what is our fault, by type and place: texts of errors may hold anything."""
    context = state_of(scope)["context"]
    context.error_code = error_code(error)
    if problem_of(error).status < _SERVER_ERROR:
        return
    _log.error(
        "request_failed",
        request_id=context.request_id,
        error=type(error).__name__,
        cause=type(error.__cause__).__name__ if error.__cause__ else None,
        places=[
            f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)[-3:]
        ],
    )
