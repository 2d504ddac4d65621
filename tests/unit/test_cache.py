"""Requests share an answer where they are the same in everything that shapes it, and never otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.domain.findings import Action, Finding, Where
from runstream.domain.run import Caching, Claim, Complexity, Priority
from runstream.domain.usage import Usage
from runstream.features.chat import ChatInput, Message
from runstream.gateway.cache import Keeping, request_key
from runstream.gateway.routes import Target

NAMES = st.text("abc/-", max_size=4)
TARGETS = st.lists(st.builds(Target, NAMES, NAMES), min_size=1, max_size=3)
CONTENTS = st.text(max_size=4) | st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=4)}), min_size=1, max_size=2
)
NUMBERS = st.integers(-(2**63) + 1, 2**63 - 1)
"""What a request may hold."""
SCHEMAS = st.dictionaries(NAMES, NUMBERS | st.booleans() | st.none(), max_size=3)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "messages": st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["system", "user", "tool"]), "content": CONTENTS},
            optional={
                "name": NAMES,
                "tool_call_id": NAMES,
                "tool_calls": st.lists(st.fixed_dictionaries({"id": NAMES}), min_size=1, max_size=2),
            },
        ),
        min_size=1,
        max_size=3,
    ),
    "temperature": st.floats(0, 2),
    "max_output_tokens": st.integers(1, 10_000_000),
    "stop": st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=4),
    "response_format": st.builds(lambda schema: {"type": "json_schema", "json_schema": {"schema": schema}}, SCHEMAS),
    "tools": st.lists(st.builds(lambda schema: {"function": {"parameters": schema}}, SCHEMAS), min_size=1, max_size=2),
    "tool_choice": st.sampled_from(["auto", "none", "required"]),
    "reasoning_effort": st.sampled_from(["minimal", "low", "medium", "high"]),
}
INPUTS = st.fixed_dictionaries(
    {"messages": FIELDS["messages"]}, optional={name: field for name, field in FIELDS.items() if name != "messages"}
)
WHOSE = ("tenant", "feature", "prompt_version", "model")


def written(value: Any) -> str:
    """Tells 1, 1.0 and true apart, and not the order of names."""
    return json.dumps(value, sort_keys=True)


@st.composite
def claims(draw: st.DrawFn) -> Claim:
    whose = {name: draw(NAMES) for name in WHOSE}
    return Claim(
        run_id=draw(NAMES),
        attempt=draw(st.integers(1, 3)),
        max_attempts=3,
        queue=draw(NAMES),
        input=draw(INPUTS),
        cache=draw(st.sampled_from(Caching)),
        waited=0,
        restart_reason=None,
        cost=None,
        priority=Priority.DEFAULT,
        complexity=draw(st.sampled_from([None, *Complexity])),
        **whose,
    )


def test_every_field_of_a_request_is_one_that_is_tried() -> None:
    assert set(ChatInput.model_fields) == set(FIELDS)
    assert set(Message.model_fields) == {"role", "content", "name", "tool_call_id", "tool_calls"}


@pytest.mark.promise("P7")
@pytest.mark.parametrize("changed", [*WHOSE, "targets", "complexity", *FIELDS])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_requests_that_differ_in_any_field_have_different_keys(changed: str, data: st.DataObject) -> None:
    claim, targets = data.draw(claims()), data.draw(TARGETS)
    key = request_key(claim, targets)
    if changed == "targets":
        others = data.draw(TARGETS.filter(lambda others: others != targets))
        assert request_key(claim, others) != key
    elif changed == "complexity":
        other = data.draw(st.sampled_from([each for each in (None, *Complexity) if each != claim.complexity]))
        assert request_key(replace(claim, complexity=other), targets) != key
    elif changed in WHOSE:
        other = data.draw(NAMES.filter(lambda name: name != getattr(claim, changed)))
        assert request_key(replace(claim, **{changed: other}), targets) != key
    else:
        was = claim.input.get(changed)
        other = data.draw(FIELDS[changed].filter(lambda value: written(value) != written(was)))
        assert request_key(replace(claim, input={**claim.input, changed: other}), targets) != key
        without = {name: value for name, value in claim.input.items() if name != changed}
        assert (request_key(replace(claim, input=without), targets) == key) == (changed not in claim.input)


@settings(max_examples=30, deadline=None)
@given(claim=claims(), targets=TARGETS, run_id=NAMES, attempt=st.integers(4, 9))
def test_a_request_has_one_key_however_its_fields_are_ordered_and_whichever_run_makes_it(
    claim: Claim, targets: list[Target], run_id: str, attempt: int
) -> None:
    again = replace(claim, run_id=run_id, attempt=attempt, queue="other", cache=Caching.REFRESH)
    assert request_key(replace(again, input=turned(claim.input)), targets) == request_key(claim, targets)


@pytest.mark.parametrize(
    ("finish_reason", "usage", "found", "kept"),
    [
        ("stop", Usage(1, 51), None, True),
        ("tool_calls", Usage(1, 51, estimated=True), None, True),
        ("stop", Usage(1, 51), Action.NORMALIZE, True),
        ("stop", Usage(1, 51), Action.FLAG, False),
        ("stop", Usage(1, 51), Action.STRIP, False),
        ("stop", Usage(1, 50), None, False),
        ("stop", None, None, False),
        ("length", Usage(1, 51), None, False),
        ("max_output_chars", Usage(1, 51), None, False),
        ("content_filter", Usage(1, 51), None, False),
        (None, Usage(1, 51), None, False),
    ],
)
def test_only_complete_and_unflagged_answers_of_some_length_are_kept(
    finish_reason: str | None, usage: Usage | None, found: Action | None, kept: bool
) -> None:
    findings = [Finding("secret", found, Where.INPUT)] if found else []
    assert Keeping(ttl=60, min_tokens=50).keeps(finish_reason, usage, findings) is kept


def turned(value: Any) -> Any:
    """The same JSON, the fields of each object in the opposite order."""
    match value:
        case dict():
            return {name: turned(value[name]) for name in reversed(value)}
        case list():
            return [turned(each) for each in value]
    return value
