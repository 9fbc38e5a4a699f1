"""Who shares prefix-cache blocks with whom: nobody."""

from __future__ import annotations

from adapter_store.types import Digest, TenantId
from gateway.routing.cache_salt import CacheSalts

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
DIGEST, OTHER = Digest("aa" * 32), Digest("bb" * 32)


def test_every_pair_of_tenant_and_model_has_its_own_salt() -> None:
    salts = CacheSalts(b"k" * 32)
    pairs = [(tenant, digest) for tenant in (ACME, GLOBEX) for digest in (DIGEST, OTHER, None)]
    assert len({salts.of(*pair) for pair in pairs}) == len(pairs)


def test_a_salt_is_stable_and_depends_on_the_key() -> None:
    assert CacheSalts(b"k" * 32).of(ACME, DIGEST) == CacheSalts(b"k" * 32).of(ACME, DIGEST)
    assert CacheSalts(b"k" * 32).of(ACME, DIGEST) != CacheSalts(b"j" * 32).of(ACME, DIGEST)


def test_the_key_is_not_in_the_repr() -> None:
    assert "kkk" not in repr(CacheSalts(b"k" * 32))
