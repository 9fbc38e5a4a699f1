"""Labels: pseudonyms by default, and never more than a bounded number."""

from __future__ import annotations

from adapter_store.types import TenantId
from gateway.telemetry.metrics import MAX_TENANTS, Metrics
from gateway.telemetry.pseudonyms import Pseudonyms

ACME = TenantId("acme")


def test_a_tenant_is_a_stable_pseudonym_that_depends_on_the_key() -> None:
    first, other = Pseudonyms(b"a" * 32), Pseudonyms(b"b" * 32)
    assert first.of(ACME) == first.of(ACME) != other.of(ACME)
    assert "acme" not in first.of(ACME)
    assert first.of(ACME) != first.of(TenantId("globex"))


def test_an_operator_may_ask_for_names() -> None:
    assert Pseudonyms(b"a" * 32, plain=True).of(ACME) == "acme"


def test_a_thousand_tenants_are_a_bounded_number_of_labels() -> None:
    metrics = Metrics(Pseudonyms(b"a" * 32))
    labels = {metrics.tenant_label(TenantId(f"t{number}")) for number in range(MAX_TENANTS * 2)}
    assert len(labels) == MAX_TENANTS + 1
    assert metrics.tenant_label(TenantId("t0")) != "other"


def test_two_sets_of_metrics_do_not_share_anything() -> None:
    first, second = (Metrics(Pseudonyms(b"a" * 32)) for _ in range(2))
    first.queue_depth.set(7)
    assert b"tensafe_request_queue_depth 7.0" in first.render()
    assert b"tensafe_request_queue_depth 0.0" in second.render()
