"""The gateway's HTTP API as commands use it: one call in, a value or a CliError out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer

from gateway.cli.errors import CliError, ExitCode

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "TENSAFE_API_KEY"
_TIMEOUT = httpx2.Timeout(30.0, read=600.0)  # an upload is verified, an activation loads weights

UrlOption = Annotated[
    str, typer.Option("--url", envvar="TENSAFE_URL", help="Where the gateway listens.")
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        envvar="TENSAFE_API_KEY_FILE",
        help=f"A file with the API key; otherwise the variable {KEY_VARIABLE} holds it. "
        "Never an argument: those show in the process list.",
    ),
]

_EXIT_CODES = {
    HTTPStatus.UNAUTHORIZED: ExitCode.NOT_ALLOWED,
    HTTPStatus.FORBIDDEN: ExitCode.NOT_ALLOWED,
    HTTPStatus.NOT_FOUND: ExitCode.NOT_FOUND,
    HTTPStatus.TOO_MANY_REQUESTS: ExitCode.UNAVAILABLE,
    HTTPStatus.BAD_GATEWAY: ExitCode.UNAVAILABLE,
    HTTPStatus.SERVICE_UNAVAILABLE: ExitCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: ExitCode.UNAVAILABLE,
}


class GatewayClient:
    """Calls the gateway with one API key."""

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http

    def get(self, path: str, **query: str) -> Any:
        """Return the JSON at `path`."""
        return self._json(self._send("GET", path, params=query))

    def post(self, path: str, body: object | None = None) -> Any:
        """Post JSON and return the answer."""
        return self._json(self._send("POST", path, json=body if body is not None else {}))

    def delete(self, path: str) -> Any:
        """Delete what is at `path` and return the answer."""
        return self._json(self._send("DELETE", path))

    def upload(self, path: str, chunks: Iterator[bytes], content_type: str) -> Any:
        """Stream `chunks` and return the answer."""
        headers = {"content-type": content_type}
        return self._json(self._send("POST", path, content=chunks, headers=headers))

    def lines(self, path: str, **query: str) -> Iterator[bytes]:
        """Yield the lines of a streamed answer, each with its newline."""
        with self._translated(), self._http.stream("GET", path, params=query) as response:
            if response.is_error:
                response.read()
                raise _refusal(response)
            pending = b""
            for chunk in response.iter_bytes():
                *whole, pending = (pending + chunk).split(b"\n")
                yield from (line + b"\n" for line in whole)
            if pending:
                yield pending

    def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        with self._translated():
            return self._http.request(method, path, **options)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx2.HTTPError as error:
            raise CliError(
                f"no answer from the gateway at {self._http.base_url}"
                f" ({type(error).__name__}); is `tensafe gateway serve` running?",
                code="gateway_unavailable",
                exit_code=ExitCode.UNAVAILABLE,
            ) from error

    def _json(self, response: httpx2.Response) -> Any:
        if response.is_error:
            raise _refusal(response)
        return response.json() if response.content else {}


@contextmanager
def open_client(url: str, key_file: Path | None) -> Iterator[GatewayClient]:
    """Open a client with the key from `key_file` or the environment."""
    headers = {"authorization": f"Bearer {_read_key(key_file)}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=_TIMEOUT) as http:
        yield GatewayClient(http)


def _read_key(key_file: Path | None) -> str:
    try:
        text = key_file.read_text() if key_file else os.environ.get(KEY_VARIABLE, "")
    except OSError as error:
        raise CliError(f"cannot read {key_file}: {error.strerror}", code="no_api_key") from error
    if not text.strip():
        raise CliError(
            f"no API key: set {KEY_VARIABLE} or give --api-key-file",
            code="no_api_key",
            exit_code=ExitCode.NOT_ALLOWED,
        )
    return text.strip()


def _refusal(response: httpx2.Response) -> CliError:
    exit_code = _EXIT_CODES.get(HTTPStatus(response.status_code), ExitCode.REFUSED)
    try:
        problem = response.json()["error"]
        return CliError(problem["message"], code=str(problem["code"]), exit_code=exit_code)
    except (ValueError, KeyError, TypeError):
        message = f"the gateway answered {response.status_code} without saying why"
        return CliError(message, code="unexpected_answer", exit_code=exit_code)
