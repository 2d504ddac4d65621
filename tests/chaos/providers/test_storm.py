"""The short form of the storm, and whether its oracle would find what is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import npm
from tests.chaos.providers.cases import cases
from tests.chaos.providers.evidence import Evidence, Row
from tests.chaos.providers.oracle import judge
from tests.chaos.providers.outcomes import OUTCOMES
from tests.chaos.providers.storm import Report, Storm

SEED = 5
CALLS = 100
RATE = 40
TABLE = Path(__file__).parents[3] / "docs" / "providers.md"


@pytest.fixture(scope="module")
async def report() -> AsyncIterator[Report]:
    storm = Storm(seed=SEED, calls=CALLS, rate=RATE, tell=print)
    with storm.standing() as scene:
        yield await storm.run(scene)


@pytest.mark.promise("P1", "P2", "P5", "P8")
async def test_each_run_ends_as_the_table_of_outcomes_says_and_each_call_is_accounted_for(report: Report) -> None:
    print(report)
    assert report.right, str(report)


async def test_aimock_was_among_the_providers(report: Report) -> None:
    assert npm.node()
    assert report.with_aimock


def test_the_table_of_outcomes_is_the_one_that_is_documented() -> None:
    documented = TABLE.read_text()
    for outcome in OUTCOMES.values():
        assert f"\n{outcome.row()}\n" in documented


def test_every_fault_stands_alone_and_before_another_target() -> None:
    acts = {case.acts for case in cases(with_aimock=True)}
    for does in OUTCOMES:
        assert any(len(each) == 1 and each[0].does == does for each in acts)
        assert any(len(each) > 1 and each[0].does == does for each in acts) or does == "answers"


# The oracle

Breaking = Callable[[Evidence], Evidence]


def spoken(evidence: Evidence) -> list[Row]:
    return [run for run in evidence.runs.values() if run["status"] == "completed" and run["output"]]


def with_run(run: Row, **changed: Any) -> Breaking:
    return lambda evidence: replace(evidence, runs={**evidence.runs, run["id"]: {**run, **changed}})


def with_lines(evidence: Evidence, change: Callable[[list[Row]], list[Row]]) -> Evidence:
    """The ledger of a run that was answered at once is changed."""
    run_id = next(run["id"] for run in spoken(evidence) if run["attempt"] == 1 and run["provider"][:4] == "simu")
    return replace(evidence, ledger={**evidence.ledger, run_id: change(evidence.ledger[run_id])})


def with_a_call_more(evidence: Evidence) -> Evidence:
    model, calls = next((model, calls) for model, calls in evidence.calls.items() if calls)
    return replace(evidence, calls={**evidence.calls, model: [*calls, calls[-1]]})


def with_two_answers_mixed(evidence: Evidence) -> Evidence:
    one, other = spoken(evidence)[:2]
    mixed = [["run.delta", {"text": other["output"]}], *one["transcript"]]
    return with_run(one, output=other["output"] + one["output"], transcript=mixed)(evidence)


def with_a_reader_misled(evidence: Evidence) -> Evidence:
    told = next(told for told in evidence.told if told.reading.text)
    misled, reading = copy(told), copy(told.reading)
    misled.reading, reading.text = reading, reading.text[1:]
    return replace(evidence, told=[misled if each is told else each for each in evidence.told])


BREAKINGS: list[tuple[str, Breaking]] = [
    ("unaccounted", lambda evidence: with_lines(evidence, lambda lines: lines[:-1])),
    ("unaccounted", lambda evidence: with_lines(evidence, lambda lines: [*lines, lines[-1]])),
    ("unaccounted", with_a_call_more),
    ("unaccounted", lambda evidence: replace(evidence, ledger={**evidence.ledger, "run_of_nobody": []})),
    ("metered", lambda evidence: with_lines(evidence, lambda lines: [{**lines[0], "output_tokens": 10**6}])),
    ("metered", lambda evidence: with_run(spoken(evidence)[0], cost=7)(evidence)),
    ("ended", lambda evidence: with_run(spoken(evidence)[0], status="failed")(evidence)),
    ("mixture", with_two_answers_mixed),
    ("mixture", lambda evidence: with_run(spoken(evidence)[0], output="w0")(evidence)),
    ("read", with_a_reader_misled),
    ("lost", lambda evidence: replace(evidence, runs={})),
    ("summed", lambda evidence: replace(evidence, usage={**evidence.usage, "calls": 0})),
    ("summed", lambda evidence: replace(evidence, sums={**evidence.sums, "input": 0})),
    ("left over", lambda evidence: replace(evidence, stats={**evidence.stats, "open_streams": 1})),
    ("logged", lambda evidence: replace(evidence, outputs={"worker": "Traceback (most recent call last):"})),
]


@pytest.mark.parametrize(("kind", "break_"), BREAKINGS)
async def test_what_is_broken_is_named(report: Report, kind: str, break_: Breaking) -> None:
    assert kind in {wrong.kind for wrong in judge(break_(report.evidence))}
