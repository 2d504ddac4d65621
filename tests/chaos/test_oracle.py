"""The oracle finds what is wrong: a sound run is left alone, and each thing broken in it is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.chaos.asks import Ask
from tests.chaos.clients import Told, take_block
from tests.chaos.evidence import Counted, Evidence, Key
from tests.chaos.oracle import judge
from tests.viewer import Said, Viewer

RUN = "run_1"
TEXT = "w0 w1 w2 "
END = {"status": "completed"}
SAID = [["run.delta", {"text": TEXT}], ["run.completed", END]]
Breaking = Callable[[Evidence], object]


def sound() -> Evidence:
    """One run whose first worker was lost, read by one reader through both attempts."""
    ask = Ask(
        number=0,
        seed="seed-1",
        kind_name="words",
        model="sim:3:0",
        key="key",
        posts=1,
        streamed=False,
        readers=1,
        late=False,
        cancel_after=None,
        again=False,
    )
    reading = Viewer("key", RUN)
    reading.attempt, reading.position, reading.text, reading.end = 2, 11, TEXT, ("run.completed", END)
    run = {
        "id": RUN,
        "ask": 0,
        "status": "completed",
        "attempt": 2,
        "max_attempts": 4,
        "worker": None,
        "finished_at": 3.0,
        "output": TEXT,
        "reasoning": None,
        "tool_calls": None,
        "transcript": [["run.restarted", {}], ["run.delta", {"text": TEXT}], ["run.completed", END]],
        "error": None,
    }
    attempts = [
        {"run_id": RUN, "attempt": 1, "outcome": "retried", "worker": "gone", "began": 1.0, "ended_at": 2.0},
        {"run_id": RUN, "attempt": 2, "outcome": "completed", "worker": "here", "began": 2.0, "ended_at": 3.0},
    ]
    calls = [
        {"asked": ask.prompt, "began": 1.1, "ended": 1.9, "ending": "cut", "tokens": 1},
        {"asked": ask.prompt, "began": 2.1, "ended": 2.9, "ending": "finish", "tokens": 3},
    ]
    return Evidence(
        told=[Told(ask, run_ids={RUN}, ends={"completed"}, readings=[reading])],
        runs=[run],
        attempts=attempts,
        calls=calls,
        calls_made=2,
        provider={"open_streams": 0},
        keys=[
            Key(f"runstream:run:{RUN}", 1000),
            Key("arq:queue:health-check", 1000),
            Key("runstream:looked:limits", 1000),
            Key("runstream:limits:acme:month:0", 1000),
            Key("runstream:tenants-with-limits", -1),
        ],
        streams=0,
        outputs={"api-1": '{"level": "info"}'},
        living={"api 1": True},
        spent=9,
        counted=[Counted(9, 0)],
    )


def kinds(evidence: Evidence) -> set[str]:
    return {wrong.kind for wrong in judge(evidence)}


def test_nothing_is_wrong_where_every_promise_was_kept() -> None:
    assert judge(sound()) == []


def run(**changed: Any) -> Breaking:
    return lambda evidence: evidence.runs[0].update(changed)


def reader(**changed: Any) -> Breaking:
    return lambda evidence: [setattr(evidence.told[0].readings[0], name, value) for name, value in changed.items()]


def call(began: float) -> Breaking:
    return lambda evidence: evidence.calls.append({**evidence.calls[1], "began": began})


@pytest.mark.parametrize(
    ("kind", "break_"),
    [
        ("lost", run(status="running", finished_at=None, worker="here")),
        ("lost", lambda evidence: evidence.runs.clear()),
        ("lost", reader(end=None)),
        ("gap", reader(text=TEXT[:-1])),
        ("repeat", reader(text=TEXT + "w2 ")),
        ("differs", reader(attempt=1)),
        ("differs", reader(end=("run.failed", {}))),
        ("differs", run(output="w0 ", transcript=[["run.delta", {"text": "w0 "}], ["run.completed", END]])),
        ("differs", run(output="w0 ")),
        ("differs", run(reasoning="r0 ")),
        ("differs", run(tool_calls=[{"id": "call_0", "function": {"name": "look_up", "arguments": "{}"}}])),
        ("gap", run(transcript=[["run.reasoning", {"text": "r0 "}], *SAID], reasoning="r0 ")),
        ("differs", run(status="cancelled")),
        ("differs", run(status="failed", error={"code": "worker_lost"})),
        ("twice", run(transcript=[["run.delta", {"text": TEXT}], ["run.completed", END], ["run.completed", END]])),
        ("twice", lambda evidence: evidence.runs.append({**evidence.runs[0], "id": "run_2"})),
        ("twice", lambda evidence: evidence.told[0].ends.add("cancelled")),
        ("twice", lambda evidence: evidence.attempts[0].update(outcome="completed")),
        ("left over", lambda evidence: evidence.attempts[1].update(outcome="running", ended_at=None)),
        ("left over", lambda evidence: evidence.keys.append(Key("arq:job:run_9:0", 1000))),
        ("left over", lambda evidence: evidence.keys.append(Key(f"runstream:run:{RUN}", -1))),
        ("left over", lambda evidence: evidence.keys.append(Key("runstream:queue:default", -1))),
        ("left over", lambda evidence: evidence.keys.append(Key("runstream:doorbell:default", -1))),
        ("left over", lambda evidence: evidence.keys.append(Key("runstream:looked:limits", -1))),
        ("left over", lambda evidence: evidence.provider.update(open_streams=1)),
        ("left over", lambda evidence: evidence.living.update({"worker 1": False})),
        ("left over", lambda evidence: evidence.keys.append(Key("runstream:limits:acme:open", 1000))),
        ("counted", lambda evidence: evidence.counted.append(Counted(8, 0))),
        ("counted", lambda evidence: evidence.counted.append(Counted(9, 1))),
        ("illegal", lambda evidence: evidence.told[0].wrongs.append("POST was answered 500")),
        ("logged", lambda evidence: evidence.outputs.update(worker="Traceback (most recent call last):")),
        ("logged", lambda evidence: evidence.outputs.update(worker='{"level": "error"}')),
        ("logged", lambda evidence: evidence.outputs.update(worker="asked seed-1 0")),
    ],
)
def test_what_is_broken_is_named(kind: str, break_: Breaking) -> None:
    evidence = sound()
    break_(evidence)
    assert kind in kinds(evidence)


@pytest.mark.parametrize("began", [1.5, 2.5, 9.0])
def test_a_call_more_than_there_are_attempts_is_billed_twice(began: float) -> None:
    evidence = sound()
    call(began)(evidence)
    assert "billed" in kinds(replace(evidence, calls_made=3))


def test_two_calls_in_one_attempt_are_billed_twice_though_another_made_none() -> None:
    evidence = sound()
    evidence.calls[0]["began"] = 2.05
    assert kinds(evidence) == {"billed"}


def test_a_call_that_nobody_asked_for_is_billed() -> None:
    evidence = sound()
    evidence.calls[0]["asked"] = "somebody else's"
    assert "billed" in kinds(evidence)


@pytest.mark.parametrize(
    "block",
    [
        'id: 1-9\nevent: run.delta\ndata: {"text":"w1 "}',
        'id: 1-4\nevent: run.delta\ndata: {"text":"w0 "}',
        "id: 2-1\nevent: run.started\ndata: {}",
        'id: 2-3\nevent: run.delta\ndata: {"text":"w0 "}',
        "not an event",
        'id: 1-6\nevent: run.tool_call\ndata: {"index":0,"arguments":"{}"}',
        'id: 1-5\nevent: run.tool_call\ndata: {"index":1,"id":"a","name":"b"}',
        'id: 1-6\nevent: run.tool_call\ndata: {"index":0,"id":"a","name":"b","arguments":"{}"}',
        'id: 1-5\nevent: run.reasoning\ndata: {"text":"r0 "}',
        'id: 1-4\nevent: run.reasoning\ndata: {"text":""}',
    ],
    ids=[
        "gap",
        "repeat",
        "another beginning",
        "a new attempt unsaid",
        "noise",
        "arguments of no call",
        "a call out of turn",
        "a call and its arguments in one",
        "reasoning that counts as one",
        "nothing said",
    ],
)
def test_an_event_that_may_not_follow_is_illegal(block: str) -> None:
    told = sound().told[0]
    reading = Viewer("key", RUN)
    for legal in ("id: 1-1\nevent: run.started\ndata: {}", 'id: 1-4\nevent: run.delta\ndata: {"text":"w0 "}'):
        take_block(told, reading, legal)
    assert told.wrongs == []
    take_block(told, reading, block)
    assert len(told.wrongs) == 1


def test_an_attempt_that_said_what_the_provider_does_not_is_illegal_though_it_is_void() -> None:
    told = sound().told[0]
    reading = Viewer("key", RUN)
    take_block(told, reading, "id: 1-1\nevent: run.started\ndata: {}")
    take_block(told, reading, 'id: 1-4\nevent: run.delta\ndata: {"text":"w1 "}')
    assert told.wrongs == []
    take_block(told, reading, 'id: 2-1\nevent: run.restarted\ndata: {"attempt":2}')
    assert len(told.wrongs) == 1


def test_a_beginning_ends_in_one_place_of_what_is_said_as_a_whole() -> None:
    first, second = ("call_0", "look_up", "{}"), ("call_1", "write_down", "[]")
    whole = Said("r0 r1 ", "w0 ", (first, second))
    for part in (Said(), Said("r0 "), Said("r0 r1 ", "w"), Said("r0 r1 ", "w0 ", (first,)), whole):
        assert part.begins(whole)
    assert Said("r0 r1 ", "w0 ", (("call_0", "look_up", ""),)).begins(whole)
    assert not whole.begins(Said("r0 "))
    for part in (Said("", "w"), Said("r0 ", "w"), Said("r1 "), Said("r0 r1 ", "w0 ", (second,))):
        assert not part.begins(whole)
    cut_short = ("call_0", "look_up", "{")
    assert not Said("r0 r1 ", "w0 ", (cut_short, second)).begins(whole)
