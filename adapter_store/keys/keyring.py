"""Keyring files: one per role, so that no process can read what it must never hold.

gateway.json    API-key pepper, cache-salt key, private activation key
pool.json       wrapping seed, ingest seed, public activation key
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, TypeVar

from msgspec import Meta, Struct

from adapter_store import canonical
from adapter_store.errors import InvalidKeyError, KeyringError, NotCanonicalError
from adapter_store.tssp.signing import PublisherPrivateKey, PublisherPublicKey

GATEWAY_FILE: Final = "gateway.json"
POOL_FILE: Final = "pool.json"
SECRET_BYTES: Final = 32
_MAX_FILE_BYTES: Final = 64 << 10
_FIRST_VERSION: Final = 1

_Secret = Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
_Version = Annotated[int, Meta(ge=1, le=2**31 - 1)]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GatewayKeys:
    """What the gateway holds. Its activation key signs records; it opens no package."""

    pepper: bytes = field(repr=False)
    """Keys the HMAC under which API-key secrets are stored (32 bytes)."""
    pepper_version: int
    cache_salt_key: bytes = field(repr=False)
    """Keys the HMAC that makes a prefix-cache salt of tenant and digest (32 bytes)."""
    activation_key: PublisherPrivateKey


@dataclass(frozen=True, slots=True)
class PoolKeys:
    """What the pool holds. It opens packages; it cannot activate one."""

    version: int
    wrapping_seed: bytes = field(repr=False)
    ingest_seed: bytes = field(repr=False)
    activation_public_key: PublisherPublicKey


class _SigningSeeds(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    ed25519: _Secret
    mldsa65: _Secret


class _GatewayFile(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag="tensafe-gateway-keyring/1",
    tag_field="type",
):
    pepper: _Secret
    pepper_version: _Version
    cache_salt_key: _Secret
    activation_key: _SigningSeeds


class _PoolFile(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag="tensafe-pool-keyring/1",
    tag_field="type",
):
    version: _Version
    wrapping_seed: _Secret
    ingest_seed: _Secret
    activation_public_key: PublisherPublicKey


def create_keyrings(directory: Path) -> None:
    """Make new keys for a deployment: both files, or neither, in `directory` (made 0700).

    Raises KeyringError if either file exists: keys that packages and API keys depend on are
    never overwritten.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KeyringError(f"cannot make {directory}: {error.strerror}") from None
    _require_mode(directory, 0o700)
    existing = [name for name in (GATEWAY_FILE, POOL_FILE) if (directory / name).exists()]
    if existing:
        raise KeyringError(
            f"{directory} already holds {' and '.join(existing)}; keys are never overwritten"
        )
    seeds = _SigningSeeds(ed25519=_new_secret(), mldsa65=_new_secret())
    gateway = _GatewayFile(
        pepper=_new_secret(),
        pepper_version=_FIRST_VERSION,
        cache_salt_key=_new_secret(),
        activation_key=seeds,
    )
    pool = _PoolFile(
        version=_FIRST_VERSION,
        wrapping_seed=_new_secret(),
        ingest_seed=_new_secret(),
        activation_public_key=_signing_key(seeds).public_key,
    )
    _write_new(directory / POOL_FILE, canonical.encode(pool))
    try:
        _write_new(directory / GATEWAY_FILE, canonical.encode(gateway))
    except BaseException:
        (directory / POOL_FILE).unlink(missing_ok=True)
        raise


def load_gateway_keys(path: Path) -> GatewayKeys:
    """Return the gateway's keys; raises KeyringError if they are missing, open to others or bad."""
    file = _read(path, _GatewayFile)
    return GatewayKeys(
        pepper=file.pepper,
        pepper_version=file.pepper_version,
        cache_salt_key=file.cache_salt_key,
        activation_key=_signing_key(file.activation_key),
    )


def load_pool_keys(path: Path) -> PoolKeys:
    """Return the pool's keys; raises KeyringError if they are missing, open to others or bad."""
    file = _read(path, _PoolFile)
    return PoolKeys(
        version=file.version,
        wrapping_seed=file.wrapping_seed,
        ingest_seed=file.ingest_seed,
        activation_public_key=file.activation_public_key,
    )


def _new_secret() -> bytes:
    return os.urandom(SECRET_BYTES)


def _signing_key(seeds: _SigningSeeds) -> PublisherPrivateKey:
    return PublisherPrivateKey(ed25519_seed=seeds.ed25519, mldsa65_seed=seeds.mldsa65)


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all, and never replaces another."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename, fails if the name is taken
    except FileExistsError:
        raise KeyringError(f"{path} already exists; keys are never overwritten") from None
    except OSError as error:
        raise KeyringError(f"cannot write {path}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, type_: type[T]) -> T:
    try:
        with path.open("rb") as file:
            # Checked on the open file, not on the name, which could change in between.
            _require_private(path, os.fstat(file.fileno()), 0o600)
            data = file.read(_MAX_FILE_BYTES)
    except FileNotFoundError:
        raise KeyringError(f"there is no keyring at {path}") from None
    except OSError as error:
        raise KeyringError(f"cannot read {path}: {error.strerror}") from None
    _require_mode(path.parent, 0o700)
    try:
        return canonical.decode(
            data.rstrip(b"\r\n"), type_, what=f"keyring {path.name}", error=InvalidKeyError
        )
    except (InvalidKeyError, NotCanonicalError) as invalid:
        raise KeyringError(f"{path}: {invalid}") from None


def _require_mode(path: Path, mode: int) -> None:
    try:
        _require_private(path, path.stat(), mode)
    except OSError as error:
        raise KeyringError(f"cannot read {path}: {error.strerror}") from None


def _require_private(path: Path, status: os.stat_result, mode: int) -> None:
    found = stat.S_IMODE(status.st_mode)
    if found & ~mode:
        raise KeyringError(
            f"{path} is open to others; run: chmod {mode:04o} {path}",
            expected=f"mode {mode:04o}",
            found=f"{found:04o}",
        )
