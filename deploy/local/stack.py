"""A gateway and a pool on this machine, as the real commands start them.

    with LocalStack.create(home, model=model_dir) as stack:
        stack.start()
        stack.wait_until_ready()
        ...  # stack.base_url, stack.admin_key

Everything lives under `home`: keys, objects, database, sockets, logs, temporary files. Whatever
ends the block also ends every process; `home` itself belongs to the caller.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from deploy.local.processes import ChildProcess, ProcessError

# sockaddr_un.sun_path is 108 bytes with its NUL; the engine's own sockets have names of this length
_MAX_SOCKET_PATH_BYTES: Final = 107
_LONGEST_SOCKET_NAME_BYTES: Final = 64
_POLL_S: Final = 0.2
_ANSWER_S: Final = 5.0
_FOREIGN_PREFIXES: Final = ("GATEWAY_", "POOL_", "TENSAFE_", "VLLM_")

OnWait = Callable[[], None]
"""Is called several times a second; what it raises ends the wait."""


class StackError(Exception):
    """The deployment could not be set up or did not become ready; says what to do."""


@dataclass
class LocalStack:
    """The processes of one deployment in `home`."""

    home: Path
    base_url: str
    admin_key: str = field(repr=False)
    gateway: ChildProcess
    pool: ChildProcess

    @classmethod
    def create(
        cls,
        home: Path,
        *,
        model: str | Path,
        served_model_name: str | None = None,
        pool_arguments: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Self:
        """Set up a deployment in `home` (`tensafe gateway init`) and start nothing yet.

        `settings` are further environment variables for its processes, `GATEWAY_…`. Raises
        StackError if `home` cannot hold a deployment.
        """
        _check_home(home)
        for directory in (home, home / "logs", home / "tmp"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        variables = _environment(home, settings or {}, environ)
        port = _free_port()
        name = ["--served-model-name", served_model_name] if served_model_name else []
        return cls(
            home=home,
            base_url=f"http://127.0.0.1:{port}",
            admin_key=_initialise(home, variables),
            gateway=ChildProcess(
                "the gateway",
                _tensafe("gateway", "serve", "--port", str(port)),
                variables,
                home / "logs" / "gateway.log",
            ),
            pool=ChildProcess(
                "the pool",
                _tensafe("pool", "serve", str(model), *name, *pool_arguments),
                variables,
                home / "logs" / "pool.log",
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start both processes, without waiting for them."""
        self.pool.start()
        self.gateway.start()

    def wait_until_ready(self, *, timeout_s: float = 180.0, on_wait: OnWait = lambda: None) -> None:
        """Return once a request would be served; raises StackError or ProcessError otherwise."""
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            if time.monotonic() > deadline:
                raise StackError(
                    f"not ready after {timeout_s:.0f} s; look into {self.home / 'logs'}\n"
                    + self.pool.log_tail()
                )
            on_wait()
            time.sleep(_POLL_S)

    def ready(self) -> bool:
        """Whether a request would be served; raises ProcessError if a process has ended."""
        self.gateway.check()
        self.pool.check()
        return self._status("/readiness") == HTTPStatus.OK

    def gateway_answers(self) -> bool:
        """Whether the gateway process is there, whatever the pool does."""
        return self._status("/health") == HTTPStatus.OK

    def stop(self) -> None:
        """End both processes and all their children, in order, and wait until they are gone."""
        self.gateway.terminate()
        self.pool.terminate()
        try:
            self.gateway.stop()
        finally:
            self.pool.stop()

    def _status(self, path: str) -> int | None:
        """The status of a GET, or None while nothing listens."""
        connection = HTTPConnection(self.base_url.removeprefix("http://"), timeout=_ANSWER_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()


def _check_home(home: Path) -> None:
    longest = len(os.fsencode(home.absolute())) + _LONGEST_SOCKET_NAME_BYTES
    if longest > _MAX_SOCKET_PATH_BYTES:
        limit = _MAX_SOCKET_PATH_BYTES - _LONGEST_SOCKET_NAME_BYTES
        raise StackError(
            f"{home} is too long for Unix sockets inside it: expected at most {limit} bytes;"
            " choose a shorter place, for example with TMPDIR=/tmp"
        )


def _environment(
    home: Path, settings: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, str]:
    """The processes' environment: nothing of another deployment, temporary files at home."""
    inherited = {k: v for k, v in environ.items() if not k.startswith(_FOREIGN_PREFIXES)}
    return {
        **inherited,
        "TENSAFE_HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        **settings,
    }


def _initialise(home: Path, environ: Mapping[str, str]) -> str:
    """Make keys and database, and return the administrator's key, which is shown only once."""
    result = subprocess.run(
        _tensafe("gateway", "init", "--json"),
        env=dict(environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if result.returncode != 0:
        raise StackError(f"`tensafe gateway init` failed in {home}:\n{result.stderr.strip()}")
    key = json.loads(result.stdout)["admin_key"]
    if not isinstance(key, str):
        raise StackError(
            f"{home} holds a deployment already, and its admin key is not stored anywhere;"
            " choose an empty folder"
        )
    return key


def _tensafe(*arguments: str) -> list[str]:
    return [str(Path(sysconfig.get_path("scripts")) / "tensafe"), *arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


__all__ = ["LocalStack", "OnWait", "ProcessError", "StackError"]
