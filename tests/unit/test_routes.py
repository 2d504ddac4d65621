"""Which targets a run has: a part of what is configured, in that order, and the same for each of its attempts."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.domain.errors import ConfigurationError, InvalidField
from runstream.domain.ids import new_id
from runstream.domain.run import Complexity
from runstream.domain.usage import Rates
from runstream.gateway.routes import RouteQuery, Routes, Target, TargetConfig

LOW, HIGH = frozenset({Complexity.LOW}), frozenset({Complexity.HIGH})


def query(model: str = "m", *, tokens: int = 0, **of: Any) -> RouteQuery:
    """A run's, whose input is so many tokens."""
    return RouteQuery(**{"run_id": "run_1", "tenant": "acme", "model": model, "input": {"text": "abcd" * tokens}, **of})


def routes(*targets: TargetConfig | str, **tenants: list[str]) -> Routes:
    """Of the model `m`, and of the tenants' own."""
    own = {tenant: {"m": [TargetConfig(each) for each in named]} for tenant, named in tenants.items()}
    return Routes({"m": [TargetConfig(each) if isinstance(each, str) else each for each in targets]}, ["p"], own)


def named(routes: Routes, query: RouteQuery) -> str:
    return "".join(target.model for target in routes.targets(query))


def test_a_star_in_a_target_stands_for_what_was_asked_for() -> None:
    known = Routes({"*": [TargetConfig("p/org/*"), TargetConfig("p/x")]}, ["p"])
    first, second = known.targets(query("m"))
    assert [first, second] == [Target("p", "org/m"), Target("p", "x")]
    assert [first.label, second.label] == ["org/*", "x"]


def test_a_name_that_is_too_long_to_be_kept_once_it_is_a_targets_is_refused() -> None:
    """An end that names it could not be written."""
    known = Routes({"*": [TargetConfig("p/org/*")]}, ["p"])
    assert known.targets(query("m" * 252)) == [Target("p", "org/" + "m" * 252)]
    with pytest.raises(InvalidField):
        known.targets(query("m" * 253))


def test_a_name_for_which_no_model_is_configured_is_refused() -> None:
    with pytest.raises(InvalidField):
        routes("p/x").targets(query("slow"))


def test_a_tenants_own_models_go_before_everybodys_and_are_nobody_elses() -> None:
    own = {"acme": {"m": [TargetConfig("p/own")], "mine": [TargetConfig("p/own")], "x*": [TargetConfig("p/own")]}}
    known = Routes({"m": [TargetConfig("p/all")], "xy": [TargetConfig("p/all")]}, ["p"], own)
    assert [named(known, query(model)) for model in ("m", "mine", "xy")] == ["own"] * 3
    assert [named(known, query(model, tenant="other")) for model in ("m", "xy")] == ["all"] * 2
    with pytest.raises(InvalidField, match="No model of this name"):
        known.targets(query("mine", tenant="other"))
    assert known.names("acme") == ["m", "mine", "xy"]
    assert known.names("other") == known.names() == ["m", "xy"]


def test_a_target_is_for_runs_of_its_sizes_both_bounds_included() -> None:
    known = routes(TargetConfig("p/s", max_input_tokens=10), TargetConfig("p/l", min_input_tokens=10), "p/a")
    assert [named(known, query(tokens=tokens)) for tokens in (9, 10, 11)] == ["sa", "sla", "la"]


def test_a_target_is_for_runs_of_its_complexities_and_not_for_those_that_declare_none() -> None:
    known = routes(TargetConfig("p/l", complexity=LOW), TargetConfig("p/h", complexity=HIGH), "p/a")
    assert [named(known, query(complexity=each)) for each in (*Complexity, None)] == ["la", "a", "ha", "a"]


@pytest.mark.parametrize(
    ("targets", "asked", "param", "said"),
    [
        ([TargetConfig("p/s", max_input_tokens=10)], {"tokens": 11}, "input", "about 11 tokens.*0 to 10"),
        (
            [TargetConfig("p/s", max_input_tokens=10), TargetConfig("p/l", min_input_tokens=20)],
            {"tokens": 15},
            "input",
            "0 to 10, or 20 and more",
        ),
        ([TargetConfig("p/h", complexity=HIGH)], {}, "complexity", "declares no complexity.*takes: high"),
        (
            [TargetConfig("p/h", complexity=HIGH), TargetConfig("p/l", complexity=LOW)],
            {"complexity": Complexity.MEDIUM},
            "complexity",
            "'medium'.*low, high",
        ),
        (
            [TargetConfig("p/l", complexity=LOW, max_input_tokens=5), TargetConfig("p/h", complexity=HIGH)],
            {"complexity": Complexity.LOW, "tokens": 6},
            "complexity",
            "'low'.*high",
        ),
        (
            [TargetConfig("p/l", max_input_tokens=5), TargetConfig("p/c", canary=Decimal(1))],
            {"tokens": 6},
            "input",
            "0 to 5",
        ),
    ],
)
def test_a_run_that_no_target_is_for_is_refused_by_what_would_have_to_be_another(
    targets: list[TargetConfig], asked: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(InvalidField, match=said) as refused:
        routes(*targets).targets(query(**asked))
    assert refused.value.param == param


def test_a_canary_has_its_share_of_runs_first_and_the_others_never_try_it() -> None:
    runs = 10_000
    shares = {"c": 0.05, "d": 0.2}
    known = routes("p/a", *(TargetConfig(f"p/{name}", canary=Decimal(str(share))) for name, share in shares.items()))
    ids = [new_id("run") for _ in range(runs)]
    chosen = [named(known, query(run_id=run_id)) for run_id in ids]
    assert set(chosen) == {"a", "ca", "da"}
    for name, share in shares.items():
        deviation = (runs * share * (1 - share)) ** 0.5
        assert abs(chosen.count(f"{name}a") - runs * share) < 6 * deviation
    assert [named(known, query(run_id=run_id)) for run_id in ids] == chosen


def test_where_a_run_goes_is_the_same_in_every_process() -> None:
    known = routes("p/a", TargetConfig("p/c", canary=Decimal("0.5")))
    chosen = [named(known, query(run_id=f"run_{number}")) for number in range(8)]
    assert chosen == ["a", "ca", "a", "ca", "ca", "ca", "a", "ca"]


def test_a_canary_takes_of_its_share_only_the_runs_that_it_is_for() -> None:
    known = routes("p/a", TargetConfig("p/c", canary=Decimal(1), max_input_tokens=10))
    assert [named(known, query(tokens=tokens)) for tokens in (10, 11)] == ["ca", "a"]


CONFIGS = st.builds(
    lambda low, span, complexity, canary: TargetConfig(
        "p/x", None, low, None if span is None else low + span, complexity, canary and Decimal(canary) / 100
    ),
    st.integers(0, 20),
    st.none() | st.integers(0, 20),
    st.frozensets(st.sampled_from(Complexity)),
    st.none() | st.integers(1, 25),
)


@settings(max_examples=50, deadline=None)
@given(
    configs=st.lists(CONFIGS, min_size=1, max_size=4),
    tokens=st.integers(0, 45),
    complexity=st.none() | st.sampled_from(Complexity),
    run_id=st.integers(0, 10**6).map(lambda number: f"run_{number}"),
)
def test_a_runs_targets_are_those_that_are_for_it_in_their_order_after_at_most_one_canary(
    configs: list[TargetConfig], tokens: int, complexity: Complexity | None, run_id: str
) -> None:
    configs.append(TargetConfig("p/last", min_input_tokens=5))
    numbered = [
        TargetConfig(f"p/{n}", c.price, c.min_input_tokens, c.max_input_tokens, c.complexity, c.canary)
        for n, c in enumerate(configs)
    ]
    fit = {
        str(n)
        for n, c in enumerate(configs)
        if c.min_input_tokens <= tokens
        and (c.max_input_tokens is None or tokens <= c.max_input_tokens)
        and (not c.complexity or complexity in c.complexity)
    }
    canaries = {str(n) for n, c in enumerate(configs) if c.canary is not None}
    asked = query(tokens=tokens, complexity=complexity, run_id=run_id)
    if not fit - canaries:
        with pytest.raises(InvalidField):
            routes(*numbered).targets(asked)
        return
    first, *others = [target.model for target in routes(*numbered).targets(asked)]
    ordinary = others if first in canaries else [first, *others]
    assert first in fit
    assert ordinary == sorted(fit - canaries, key=int)


def test_an_answer_is_read_on_or_given_at_the_price_of_its_target_if_it_is_still_the_runs() -> None:
    price = Rates(Decimal(1), Decimal(2))
    known = routes(TargetConfig("p/x", price=price, complexity=HIGH), "p/y")
    target = known.target(query(), "p", "x")
    assert (target, target.price, target.label) == (Target("p", "x"), price, "x")
    gone = known.target(query(), "q", "z")
    assert (gone, gone.price, gone.label) == (Target("q", "z"), None, "other")


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ([], "'m' has no target"),
        (["x"], "'x' of 'm' is not 'provider/model'"),
        (["p/"], "'p/' of 'm' is not 'provider/model'"),
        (["q/x"], "'q/x' of 'm' is not 'provider/model' with a provider of RUNSTREAM_PROVIDERS"),
        ([TargetConfig("p/x", canary=Decimal("0.1"))], "'m' has no target for the runs that are of no canary's share"),
        (
            ["p/x", *[TargetConfig("p/y", canary=Decimal("0.6"))] * 2],
            "the canary shares of 'm' are more than 1 together",
        ),
        ([TargetConfig("p/x", min_input_tokens=2, max_input_tokens=1)], "'p/x' of 'm' takes no input"),
    ],
)
def test_targets_that_cannot_be_are_refused_by_name(targets: list[TargetConfig | str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"RUNSTREAM_MODELS: .*{said}"):
        routes(*targets)
    if all(isinstance(target, str) for target in targets):
        with pytest.raises(ConfigurationError, match=f"RUNSTREAM_TENANT_MODELS of 'acme': .*{said}"):
            routes("p/x", acme=targets)
