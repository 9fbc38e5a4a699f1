"""Unix sockets that only their owner can use: bound with mode 0600, peers checked by user id."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

from runtime.errors import PoolConfigurationError

MAX_SOCKET_PATH_BYTES = 107
"""`sun_path` is 108 bytes with its terminating NUL (unix(7))."""

PRIVATE_UMASK = 0o177
_UCRED = struct.Struct("3i")


def checked_socket_path(path: Path) -> Path:
    """Return `path` if it fits a socket address; raises PoolConfigurationError otherwise."""
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH_BYTES:
        raise PoolConfigurationError(
            f"socket path of {length} bytes is too long (at most {MAX_SOCKET_PATH_BYTES}): "
            f"{path}; choose a shorter --pool-dir"
        )
    return path


def remove_stale_socket(path: Path) -> None:
    """Remove the socket that a killed process left at `path`.

    The caller holds the pool directory's lock, so that no living pool can own it. Anything
    but a socket is refused, never removed.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise PoolConfigurationError(f"expected a socket or nothing at {path}")
    path.unlink()


def listen(path: Path, *, backlog: int) -> socket.socket:
    """Return a listening socket at `path` with mode 0600, replacing a stale one."""
    checked_socket_path(path)
    remove_stale_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(PRIVATE_UMASK)
    try:
        listener.bind(str(path))
    finally:
        os.umask(previous)
    listener.listen(backlog)
    return listener


def peer_user_id(connection: socket.socket) -> int:
    """Return the user id of the process at the other end, as the kernel recorded it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, user_id, _group_id = _UCRED.unpack(credentials)
    return int(user_id)
