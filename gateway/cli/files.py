"""Reads the files that commands are given; each unreadable one is an error that names it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from adapter_store.tssp.privacy import NoPrivacy, PrivacyStatement
from adapter_store.tssp.signing import PublisherPrivateKey, PublisherPublicKey
from gateway.cli.errors import CliError, ExitCode

_MAX_BYTES = 1 << 20  # none of these files is ever larger


def read_public_key(path: Path) -> PublisherPublicKey:
    """Return the publisher key in a `.pub` file; raises CliError or InvalidKeyError."""
    return PublisherPublicKey.from_json(_read(path))


def read_private_key(path: Path) -> PublisherPrivateKey:
    """Return the signing key in `path`; refuses a file that others can read."""
    content = _read(path)
    if path.stat().st_mode & 0o077:
        message = f"others can read {path}: run `chmod 600 {path}`"
        raise CliError(message, code="insecure_file", exit_code=ExitCode.USAGE)
    return PublisherPrivateKey.from_json(content)


def read_privacy(path: Path | None, dataset: str) -> PrivacyStatement:
    """Return the privacy statement in `path`, or the one that claims none."""
    if path is None:
        return NoPrivacy(dataset=dataset)
    try:
        statement: PrivacyStatement = msgspec.json.decode(_read(path), type=PrivacyStatement)
    except msgspec.DecodeError as error:
        raise CliError(f"{path} is no privacy statement: {error}", code="invalid_file") from error
    return statement


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise CliError(message, code="no_file", exit_code=ExitCode.USAGE) from error
