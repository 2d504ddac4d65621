"""Which limits hold, and when their windows turn."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from runstream.domain.errors import ConfigurationError
from runstream.domain.limits import Window
from runstream.gateway.limits import Limits
from runstream.settings import AllLimitSettings, load


def limits_of(given: dict, tenant: str) -> dict[str, int]:
    settings = AllLimitSettings.model_validate(given)
    limits = Limits(settings.bounds(), {name: own.bounds() for name, own in settings.tenants.items()})
    return {limit.name: limit.most for limit in limits.of(tenant)}


def test_a_tenant_has_the_limits_of_all_but_for_what_is_said_of_it() -> None:
    given = {
        "user": {"requests_per_minute": 20, "tokens_per_day": 1000},
        "tenant": {"cost_per_month": "0.5"},
        "tenants": {"acme": {"user": {"requests_per_minute": None}, "tenant": {"concurrent_runs": 3}}},
    }
    every = {"user.requests_per_minute": 20, "user.tokens_per_day": 1000, "tenant.cost_per_month": 5 * 10**9}
    assert limits_of(given, "other") == every
    own = {name: most for name, most in every.items() if name != "user.requests_per_minute"}
    assert limits_of(given, "acme") == {**own, "tenant.concurrent_runs": 3}


def test_nothing_is_limited_where_nothing_is_said() -> None:
    assert limits_of({}, "acme") == {}
    assert limits_of({"user": {"tokens_per_day": None}}, "acme") == {}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"user": {"tokens_per_year": 1}}, "at user: There is no 'tokens_per_year' here"),
        ({"users": {}}, ": There is no 'users' here"),
        ({"tenant": {"cost_per_day": -1}}, "at tenant.cost_per_day: "),
        ({"tenants": {"acme": {"feature": {"concurrent_runs": "many"}}}}, "at tenants.acme.feature.concurrent_runs: "),
    ],
)
def test_a_limit_that_is_none_is_said_at_its_place(value: dict, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNSTREAM_LIMITS", json.dumps(value))
    with pytest.raises(ConfigurationError, match=f"RUNSTREAM_LIMITS ?{place}"):
        load()


@pytest.mark.parametrize("window", Window)
def test_a_window_ends_where_the_next_one_begins(window: Window) -> None:
    at = datetime(2023, 12, 30, 23, 58, 30, tzinfo=UTC)
    for _ in range(3000):
        first, after = window.start(at), window.end(at)
        assert first <= at < after
        assert window.start(after) == after
        assert window.start(after - timedelta(microseconds=1)) == first
        at += timedelta(hours=7, minutes=13)
