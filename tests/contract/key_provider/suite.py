"""What every key provider must do; each implementation's test inherits this."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from adapter_store.errors import KeyNotFoundError, KeyProviderError, KeyRefusedError
from adapter_store.keys.provider import KeyProvider
from adapter_store.tssp.encryption import DataKey
from adapter_store.tssp.recipients import SealedDataKey, WrappedDataKey, seal_data_key
from adapter_store.types import Digest, TenantId

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
ONE, TWO = Digest("1" * 64), Digest("2" * 64)


def flipped(data: bytes, index: int) -> bytes:
    changed = bytearray(data)
    changed[index] ^= 1
    return bytes(changed)


class KeyProviderContract:
    """Subclasses define the fixture `keys`."""

    @pytest.fixture
    def data_key(self) -> DataKey:
        return DataKey.generate()

    @pytest.fixture
    def sealed(self, keys: KeyProvider, data_key: DataKey) -> SealedDataKey:
        return seal_data_key(data_key, keys.ingest_public_key(ACME), tenant=ACME, digest=ONE)

    @pytest.fixture
    def wrapped(self, keys: KeyProvider, data_key: DataKey) -> WrappedDataKey:
        return keys.wrap(ACME, ONE, data_key)

    def test_what_was_sealed_for_a_tenant_opens(
        self, keys: KeyProvider, data_key: DataKey, sealed: SealedDataKey
    ) -> None:
        assert keys.open_ingest(ACME, sealed, ONE).reveal() == data_key.reveal()

    def test_an_ingest_key_is_the_same_every_time_and_another_for_each_tenant(
        self, keys: KeyProvider
    ) -> None:
        assert keys.ingest_public_key(ACME) == keys.ingest_public_key(ACME)
        assert keys.ingest_public_key(ACME) != keys.ingest_public_key(GLOBEX)

    def test_what_was_sealed_for_one_package_opens_no_other(
        self, keys: KeyProvider, sealed: SealedDataKey
    ) -> None:
        with pytest.raises(KeyRefusedError):
            keys.open_ingest(ACME, sealed, TWO)

    def test_what_was_sealed_for_one_tenant_opens_for_no_other(
        self, keys: KeyProvider, sealed: SealedDataKey
    ) -> None:
        with pytest.raises(KeyNotFoundError):
            keys.open_ingest(GLOBEX, sealed, ONE)
        posing = msgspec.structs.replace(sealed, key_id=keys.ingest_public_key(GLOBEX).key_id)
        with pytest.raises(KeyRefusedError):
            keys.open_ingest(GLOBEX, posing, ONE)

    @pytest.mark.parametrize("index", [0, 1100, -1])
    def test_a_changed_sealed_key_does_not_open(
        self, keys: KeyProvider, sealed: SealedDataKey, index: int
    ) -> None:
        changed = msgspec.structs.replace(sealed, sealed=flipped(sealed.sealed, index))
        with pytest.raises(KeyRefusedError):
            keys.open_ingest(ACME, changed, ONE)

    def test_a_truncated_sealed_key_does_not_open(
        self, keys: KeyProvider, sealed: SealedDataKey
    ) -> None:
        for length in (1, 100, len(sealed.sealed) - 1):
            short = msgspec.structs.replace(sealed, sealed=sealed.sealed[:length])
            with pytest.raises(KeyRefusedError):
                keys.open_ingest(ACME, short, ONE)

    def test_what_was_wrapped_unwraps(
        self, keys: KeyProvider, data_key: DataKey, wrapped: WrappedDataKey
    ) -> None:
        assert keys.unwrap(ACME, ONE, wrapped).reveal() == data_key.reveal()

    def test_a_wrapped_key_survives_its_json(
        self, keys: KeyProvider, data_key: DataKey, wrapped: WrappedDataKey
    ) -> None:
        read = WrappedDataKey.from_json(wrapped.to_json())
        assert keys.unwrap(ACME, ONE, read).reveal() == data_key.reveal()

    def test_a_wrapped_key_does_not_contain_the_data_key(
        self, data_key: DataKey, wrapped: WrappedDataKey
    ) -> None:
        assert data_key.reveal() not in wrapped.wrapped

    def test_what_was_wrapped_for_one_place_unwraps_in_no_other(
        self, keys: KeyProvider, wrapped: WrappedDataKey
    ) -> None:
        for tenant, digest in ((ACME, TWO), (GLOBEX, ONE)):
            with pytest.raises(KeyRefusedError):
                keys.unwrap(tenant, digest, wrapped)

    @pytest.mark.parametrize("index", [0, 13, -1])
    def test_a_changed_wrapped_key_does_not_unwrap(
        self, keys: KeyProvider, wrapped: WrappedDataKey, index: int
    ) -> None:
        changed = msgspec.structs.replace(wrapped, wrapped=flipped(wrapped.wrapped, index))
        with pytest.raises(KeyRefusedError):
            keys.unwrap(ACME, ONE, changed)

    def test_a_wrapped_key_of_one_byte_does_not_unwrap(
        self, keys: KeyProvider, wrapped: WrappedDataKey
    ) -> None:
        with pytest.raises(KeyRefusedError):
            keys.unwrap(ACME, ONE, msgspec.structs.replace(wrapped, wrapped=b"\0"))

    def test_a_key_of_another_provider_or_version_is_not_found(
        self, keys: KeyProvider, wrapped: WrappedDataKey
    ) -> None:
        for change in ({"provider": "elsewhere"}, {"key_id": "v999"}):
            with pytest.raises(KeyNotFoundError):
                keys.unwrap(ACME, ONE, msgspec.structs.replace(wrapped, **change))

    def test_errors_show_no_secret(
        self, keys: KeyProvider, data_key: DataKey, wrapped: WrappedDataKey
    ) -> None:
        with pytest.raises(KeyProviderError) as caught:
            keys.unwrap(ACME, TWO, wrapped)
        assert data_key.reveal().hex() not in repr(caught.value)
        assert data_key.reveal().hex() not in repr(data_key)

    def test_several_threads_may_use_it_at_once(self, keys: KeyProvider) -> None:
        def round_trip(number: int) -> bool:
            key, digest = DataKey.generate(), Digest(f"{number:064x}")
            wrapped = keys.wrap(ACME, digest, key)
            return keys.unwrap(ACME, digest, wrapped).reveal() == key.reveal()

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(round_trip, range(64)))
