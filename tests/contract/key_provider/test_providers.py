"""Every key provider, held to the one contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_store.errors import KeyProviderUnavailableError
from adapter_store.keys.keyring import create_keyrings, load_pool_keys
from adapter_store.keys.local import LocalKeyProvider
from adapter_store.keys.provider import KeyProvider
from tests.contract.key_provider.suite import ACME, KeyProviderContract
from tests.fakes.key_provider import FakeKeyProvider


class TestLocalKeyProvider(KeyProviderContract):
    @pytest.fixture
    def keys(self, tmp_path: Path) -> KeyProvider:
        create_keyrings(tmp_path / "keys")
        return LocalKeyProvider(load_pool_keys(tmp_path / "keys/pool.json"))

    def test_another_deployment_has_other_keys(self, keys: KeyProvider, tmp_path: Path) -> None:
        create_keyrings(tmp_path / "other")
        other = LocalKeyProvider(load_pool_keys(tmp_path / "other/pool.json"))
        assert other.ingest_public_key(ACME) != keys.ingest_public_key(ACME)


class TestFakeKeyProvider(KeyProviderContract):
    @pytest.fixture
    def keys(self) -> KeyProvider:
        return FakeKeyProvider()

    def test_it_can_be_away(self) -> None:
        keys = FakeKeyProvider()
        keys.away = True
        with pytest.raises(KeyProviderUnavailableError):
            keys.ingest_public_key(ACME)
