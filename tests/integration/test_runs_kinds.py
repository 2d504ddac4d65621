"""What a model says beside its text: reasoning and tool calls, live, stored, bounded, kept and tried again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import redis

from caller import DEADLINE, Caller, Sent, body, words
from reliability import rows
from stack import Stack
from viewer import Said, Viewer

CALLS = [("call_0", "look_up"), ("call_1", "write_down")]


def thoughts(number: int) -> str:
    """What the simulated provider thinks at `reasoning:<number>`."""
    return "".join(f"r{i} " for i in range(number))


def arguments(count: int) -> str:
    return json.dumps({"text": words(count)}, separators=(",", ":"))


def called(count: int) -> list[dict[str, Any]]:
    """What the simulated provider calls at `tools:<count>`, as a run puts it out."""
    return [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments(count)}}
        for call_id, name in CALLS
    ]


def said(*, reasoning: int = 0, text: int = 0, calls: int | None = None) -> Said:
    made = () if calls is None else tuple((*call, arguments(calls)) for call in CALLS)
    return Said(thoughts(reasoning), words(text), made)


async def read_whole(caller: Caller, run_id: str) -> Viewer:
    async with Viewer(caller.key, run_id) as viewer:
        await viewer.read(str(caller.http.base_url))
        return viewer


async def test_reasoning_stands_apart_from_the_text(caller: Caller) -> None:
    run_id = await caller.create("reasoning:20:30:400")
    viewer = await read_whole(caller, run_id)
    assert viewer.said == said(reasoning=20, text=30)
    run = await caller.get(run_id)
    assert run["output"] == {"text": words(30), "reasoning": thoughts(20)}
    assert run["usage"]["output_tokens"] == 50


async def test_tool_calls_are_streamed_in_pieces_and_put_out_whole(caller: Caller) -> None:
    run_id = await caller.create("tools:20:5:400")
    viewer = await read_whole(caller, run_id)
    assert viewer.said == said(text=5, calls=20)
    assert viewer.end is not None
    assert viewer.end[1]["finish_reason"] == "tool_calls"
    run = await caller.get(run_id)
    assert run["output"] == {"text": words(5), "tool_calls": called(20)}
    assert run["finish_reason"] == "tool_calls"


async def test_a_call_without_a_word_before_it_is_an_answer(caller: Caller) -> None:
    run = await caller.ended(await caller.create("tools:0"))
    assert run["status"] == "completed"
    assert run["output"] == {"text": "", "tool_calls": called(0)}


async def test_the_first_piece_of_whichever_kind_is_the_first_token(caller: Caller) -> None:
    for model in ("reasoning:3:0:20", "tools:3:0:20"):
        run = await caller.ended(await caller.create(model))
        assert run["first_token_at"] is not None, model
        assert run["first_token_at"] < run["finished_at"]


async def test_what_was_put_out_can_be_sent_back_with_the_answers_of_the_tools(caller: Caller) -> None:
    calls = (await caller.ended(await caller.create("tools:3")))["output"]["tool_calls"]
    request = body("sim:3")
    request["input"] |= {
        "messages": [
            *request["input"]["messages"],
            {"role": "assistant", "content": None, "tool_calls": calls},
            *({"role": "tool", "tool_call_id": call["id"], "content": "done"} for call in calls),
        ],
        "tools": [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "look_up"}},
        "reasoning_effort": "low",
    }
    answer = await caller.http.post("/v1/runs", json=request)
    assert answer.status_code == 202, answer.text
    assert (await caller.ended(answer.json()["id"]))["output"] == {"text": words(3)}


async def test_lists_hold_nothing_of_what_was_said(caller: Caller) -> None:
    for model in ("reasoning:3:3", "tools:3"):
        await caller.ended(await caller.create(model))
    page = (await caller.http.get("/v1/runs")).json()
    assert [run["output"] for run in page["data"]] == [None, None]


@pytest.mark.promise("P2")
@pytest.mark.parametrize("model", ["reasoning:12:12:300", "tools:8:3:200"])
@pytest.mark.parametrize("emptied", [False, True], ids=["log in Redis", "Redis emptied"])
async def test_every_cursor_gives_the_rest_of_what_was_said_live(
    caller: Caller, stack: Stack, model: str, emptied: bool
) -> None:
    run_id = await caller.create(model)
    live = await read_whole(caller, run_id)
    if emptied:
        with redis.Redis.from_url(stack.redis_url, socket_timeout=DEADLINE) as client:
            client.flushall()
    whole = await caller.events(run_id)
    for position in range(1, live.position):
        cut = Viewer(caller.key, run_id)
        for event in whole:
            _, _, end = event.id.partition("-")
            tell(cut, cut_at(event, int(end), position) if int(end) > position else event)
            if cut.position >= position:
                break
        assert cut.position == position
        for event in await caller.events(run_id, f"1-{position}"):
            tell(cut, event)
        assert (cut.said, cut.end) == (live.said, live.end)


def tell(viewer: Viewer, event: Sent) -> None:
    viewer.take(f"id: {event.id}\nevent: {event.type}\ndata: {json.dumps(event.data)}")


def cut_at(event: Sent, end: int, position: int) -> Sent:
    """The event as far as a reader has come who stands in the middle of it."""
    (field,) = {"text", "arguments"} & set(event.data)
    text = event.data[field][: position - end]
    return event._replace(id=f"1-{position}", data={**event.data, field: text})


@pytest.mark.promise("P2")
@pytest.mark.parametrize(
    ("model", "expected"),
    [("reasoning:60:60:150", said(reasoning=60, text=60)), ("tools:50:20:150", said(text=20, calls=50))],
    ids=["reasoning", "tools"],
)
async def test_readers_that_come_and_go_while_it_runs_have_the_whole(
    caller: Caller, model: str, expected: Said
) -> None:
    run_id = await caller.create(model)
    async with Viewer(caller.key, run_id) as viewer:
        while viewer.end is None:
            await viewer.read(str(caller.http.base_url), cut_after=random.randrange(50, 1500))
        assert viewer.said == expected


@pytest.mark.promise("P6")
@pytest.mark.parametrize("model", ["reasoning:2000:1:200", "tools:2000:0:200"])
async def test_a_cancel_keeps_what_had_come_and_counts_all_of_it(caller: Caller, model: str) -> None:
    run_id = await caller.create(model)
    async with Viewer(caller.key, run_id) as viewer, viewer.reading(lambda: str(caller.http.base_url)):
        await viewer.until(lambda seen: seen.said.characters > 60)
        await caller.cancel(run_id)
    run = await caller.ended(run_id)
    assert (run["status"], viewer.end) == ("cancelled", ("run.cancelled", {"partial": True}))
    output = run["output"]
    calls = [(call["id"], *call["function"].values()) for call in output.get("tool_calls", ())]
    assert viewer.said == Said(output.get("reasoning", ""), output["text"], tuple(calls))
    assert run["usage"]["estimated"]
    assert run["usage"]["output_tokens"] >= (viewer.said.characters - 20) // 4


async def test_a_run_that_is_to_be_tried_again_forgets_all_kinds(caller: Caller, stack: Stack) -> None:
    query = "select output, reasoning, tool_calls from runs where id = $1"
    for model in ("reasoning:2000:1:200", "tools:2000:0:200"):
        run_id = await caller.create(model)
        async with Viewer(caller.key, run_id) as viewer, viewer.reading(lambda: stack.url):
            await viewer.until(lambda seen: seen.said.characters > 20)
            await caller.cancel(run_id)
        assert any((await rows(stack, query, run_id))[0])
        assert (await caller.http.post(f"/v1/runs/{run_id}/retry")).status_code == 202
        assert [*(await rows(stack, query, run_id))[0]] == [None, None, None]
        await caller.cancel(run_id)


@pytest.fixture(scope="module")
def bounded(make_shared_stack: Callable[..., Stack]) -> Stack:
    return make_shared_stack(max_output_chars="50")


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("reasoning:100:100", Said(thoughts(100)[:50])),
        ("reasoning:10:100", Said(thoughts(10), words(100)[:20])),
        ("tools:100:10", Said("", words(10), (("call_0", "look_up", arguments(100)[:6]),))),
        ("tools:1:12", Said("", words(12))),
    ],
)
async def test_one_bound_holds_all_kinds_together_and_the_names_of_calls(
    bounded: Stack, model: str, kept: Said
) -> None:
    async with Caller.of(bounded, "acme", "ada") as caller:
        run_id = await caller.create(model)
        viewer = await read_whole(caller, run_id)
        assert viewer.said == kept
        assert (await caller.ended(run_id))["finish_reason"] == "max_output_chars"
