"""How many series figures by tenant may make, and what becomes of those that are not of the few."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram

from runstream.metrics import ByTenant


def counts(registry: CollectorRegistry) -> dict[str, float]:
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return {sample.labels["tenant"]: sample.value for sample in samples if sample.name == "waited_count"}


def test_tenants_beyond_the_most_share_a_series_until_one_of_the_others_has_been_idle() -> None:
    registry, now = CollectorRegistry(), 0.0
    waited = Histogram("waited", "-", ["tenant"], buckets=(1,), registry=registry)
    by_tenant = ByTenant(waited, most=2, idle=60, clock=lambda: now)
    for tenant in ("a", "b", "c", "a", "d"):
        by_tenant.observe(tenant, 0.5)
    assert counts(registry) == {"a": 2, "b": 1, "": 2}
    now = 59.0
    by_tenant.observe("a", 0.5)
    now = 61.0
    for tenant in ("c", "d", "a", "b"):
        by_tenant.observe(tenant, 0.5)
    assert counts(registry) == {"a": 4, "c": 1, "": 4}, "b was idle, and c has its place"


def test_no_number_of_tenants_makes_more_series_than_the_most_and_one() -> None:
    registry, now = CollectorRegistry(), 0.0
    by_tenant = ByTenant(
        Histogram("waited", "-", ["tenant"], buckets=(1,), registry=registry), most=3, idle=0, clock=lambda: now
    )
    for number in range(100):
        now += number % 2
        by_tenant.observe(f"t{number}", 0.5)
        assert len(counts(registry)) <= 4
