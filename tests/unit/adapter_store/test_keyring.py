"""Keyring files: one role each, closed to others, never overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_store.errors import KeyringError
from adapter_store.keys.keyring import create_keyrings, load_gateway_keys, load_pool_keys

LOADERS: list[tuple[str, Callable[[Path], object]]] = [
    ("gateway.json", load_gateway_keys),
    ("pool.json", load_pool_keys),
]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    create_keyrings(tmp_path / "keys")
    return tmp_path / "keys"


def test_both_roles_get_their_keys(keys: Path) -> None:
    gateway, pool = load_gateway_keys(keys / "gateway.json"), load_pool_keys(keys / "pool.json")
    assert gateway.activation_key.public_key == pool.activation_public_key
    secrets = {gateway.pepper, gateway.cache_salt_key, pool.wrapping_seed, pool.ingest_seed}
    assert {len(secret) for secret in secrets} == {32}
    assert len(secrets) == 4
    assert (gateway.pepper_version, pool.version) == (1, 1)


def test_a_role_holds_nothing_of_the_other(keys: Path) -> None:
    gateway = json.loads((keys / "gateway.json").read_text())
    pool = json.loads((keys / "pool.json").read_text())
    assert gateway.keys() == {
        "type", "pepper", "pepper_version", "cache_salt_key", "activation_key",
    }  # fmt: skip
    assert pool.keys() == {
        "type", "version", "wrapping_seed", "ingest_seed", "activation_public_key",
    }  # fmt: skip
    private = gateway["activation_key"].values()
    assert not [seed for seed in private if seed in json.dumps(pool)]


def test_the_files_are_closed_to_others(keys: Path) -> None:
    assert keys.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in keys.iterdir()} == {
        "gateway.json": 0o600,
        "pool.json": 0o600,
    }


@pytest.mark.parametrize(("name", "load"), LOADERS)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused_with_the_remedy(
    keys: Path, name: str, load: Callable[[Path], object], mode: int
) -> None:
    (keys / name).chmod(mode)
    with pytest.raises(KeyringError, match=f"run: chmod 0600 .*{name}"):
        load(keys / name)


def test_a_folder_that_others_can_enter_is_refused_with_the_remedy(keys: Path) -> None:
    keys.chmod(0o755)
    with pytest.raises(KeyringError, match="run: chmod 0700"):
        load_pool_keys(keys / "pool.json")
    with pytest.raises(KeyringError, match="run: chmod 0700"):
        create_keyrings(keys)


def test_stricter_modes_are_welcome(keys: Path) -> None:
    (keys / "pool.json").chmod(0o400)
    keys.chmod(0o500)
    load_pool_keys(keys / "pool.json")


@pytest.mark.parametrize("existing", ["gateway.json", "pool.json"])
def test_keys_are_never_overwritten(keys: Path, existing: str) -> None:
    other = next(path for path in keys.iterdir() if path.name != existing)
    other.unlink()
    before = (keys / existing).read_bytes()
    with pytest.raises(KeyringError, match=f"already holds {existing}"):
        create_keyrings(keys)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == {existing: before}


@pytest.mark.parametrize(("name", "load"), LOADERS)
@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"{}",
        lambda data: data[:-1],
        lambda data: data.replace(b'":', b'": ', 1),
        lambda data: data.replace(b'"type"', b'"extra":1,"type"'),
        lambda data: data.replace(b"keyring/1", b"keyring/2"),
        lambda data: b"\xff" * 100,
        lambda data: b" " * (1 << 20),
    ],
)
def test_a_damaged_file_is_refused_and_nothing_of_it_is_shown(
    keys: Path, name: str, load: Callable[[Path], object], change: Callable[[bytes], bytes]
) -> None:
    secret = json.loads((keys / "pool.json").read_text())["wrapping_seed"]
    (keys / name).write_bytes(change((keys / name).read_bytes()))
    with pytest.raises(KeyringError, match=name) as caught:
        load(keys / name)
    assert secret not in str(caught.value)


def test_the_file_of_the_other_role_is_refused(keys: Path) -> None:
    with pytest.raises(KeyringError):
        load_pool_keys(keys / "gateway.json")
    with pytest.raises(KeyringError):
        load_gateway_keys(keys / "pool.json")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(KeyringError, match="there is no keyring at"):
        load_pool_keys(tmp_path / "pool.json")


def test_keys_do_not_show_in_their_repr(keys: Path) -> None:
    gateway, pool = load_gateway_keys(keys / "gateway.json"), load_pool_keys(keys / "pool.json")
    shown = repr(gateway) + repr(pool)
    for secret in (gateway.pepper, gateway.cache_salt_key, pool.wrapping_seed, pool.ingest_seed):
        assert repr(secret)[2:-1] not in shown
    assert gateway.activation_key.public_key.key_id in shown


def test_what_cannot_be_written_is_an_error_of_the_keyring(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(KeyringError, match="cannot"):
        create_keyrings(tmp_path / "file/keys")
