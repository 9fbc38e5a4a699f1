"""What can be learnt from a package file without any secret: what it says, and whether it holds."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec

from adapter_store.tssp.container import HeaderParser
from adapter_store.tssp.format import Limits
from adapter_store.tssp.manifest import VerifiedManifest, parse_manifest
from adapter_store.tssp.reader import PackageVerifier
from adapter_store.tssp.recipients import decode_recipients
from adapter_store.tssp.signing import PublisherPublicKey
from gateway.cli.errors import CliError, ExitCode


class _UncheckedEnvelope(msgspec.Struct):
    """As much of a DSSE envelope as shows the manifest; nothing here is believed."""

    payload: str


def describe(package: Path) -> dict[str, Any]:
    """Return what a package says of itself, unverified; raises FormatError, CliError."""
    parser = HeaderParser()
    for chunk in read_chunks(package):
        parser.feed(chunk)
        if parser.header is not None:
            break
    header = parser.finish()
    try:
        envelope = msgspec.json.decode(header.envelope, type=_UncheckedEnvelope)
        payload = base64.b64decode(envelope.payload, validate=True)
    except ValueError as error:
        raise CliError(f"{package} has no readable manifest", code="invalid_format") from error
    manifest = parse_manifest(payload)
    recipients = decode_recipients(header.recipients)
    return {
        "digest": manifest.digest,
        **msgspec.to_builtins(manifest),
        "recipients": [msgspec.to_builtins(recipient)["key_id"] for recipient in recipients],
        "package_bytes": package.stat().st_size,
    }


def verify(chunks: Iterable[bytes], trusted: Collection[PublisherPublicKey]) -> VerifiedManifest:
    """Return the manifest of a package of which every byte is accounted for by a signature.

    Raises a FormatError or VerificationError that says what was expected and found.
    """
    verifier = PackageVerifier(trusted, policies=(), limits=Limits())
    for chunk in chunks:
        verifier.feed(chunk)
    return verifier.finish().verified


def read_chunks(path: Path, size: int = 1 << 20) -> Iterable[bytes]:
    """Yield the file in pieces of `size` bytes; raises CliError if it cannot be read."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(size):
                yield chunk
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise CliError(message, code="no_file", exit_code=ExitCode.USAGE) from error
