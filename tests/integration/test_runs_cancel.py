"""Stop means stop."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from caller import own_model, text_of, words
from waiting import until

pytestmark = pytest.mark.promise("P6")


async def some_text(caller, run_id):
    """Wait until the run has said something, and answer what it has said."""
    events = []
    async for event in caller.follow(run_id):
        events.append(event)
        if event.type == "run.delta":
            return events
    raise AssertionError(f"the run ended without a word: {events}")


async def test_a_queued_run_is_ended_before_anybody_calls_a_provider(unworked, stack):
    model = own_model()
    run_id = await unworked.create(model)
    run = await unworked.cancel(run_id)
    assert run["status"] == "cancelled"
    assert run["finished_at"]
    assert run["output"] is None
    (event,) = await unworked.events(run_id)
    assert (event.type, event.data) == ("run.cancelled", {"partial": False})
    assert model not in stack.provider_stats()["calls"]


async def test_a_queued_run_that_is_cancelled_is_not_run_when_a_worker_comes(unworked, stack):
    unwanted, wanted = own_model(), own_model()
    cancelled, kept = await unworked.create(unwanted), await unworked.create(wanted)
    await unworked.cancel(cancelled)
    worker = stack.start_worker(queue="unworked")
    try:
        assert (await unworked.ended(kept))["output"] == {"text": words(5)}
    finally:
        stack.kill(worker)
    assert (await unworked.get(cancelled))["status"] == "cancelled"
    calls = stack.provider_stats()["calls"]
    assert (calls.get(unwanted), calls[wanted]) == (None, 1)


async def test_readers_of_a_queued_run_are_told_of_its_end(unworked):
    run_id = await unworked.create()
    reader = asyncio.create_task(unworked.events(run_id))
    waiting = asyncio.create_task(unworked.ended(run_id))
    await unworked.cancel(run_id)
    assert [event.type for event in await reader] == ["run.cancelled"]
    assert (await waiting)["status"] == "cancelled"


async def test_a_running_run_stops_with_the_call_closed_and_its_text_kept(caller, stack):
    closed = stack.provider_stats()["closed_by_client"]
    run_id = await caller.create("sim:3000:30")
    reader = asyncio.create_task(caller.events(run_id))
    await some_text(caller, run_id)
    await caller.cancel(run_id)
    await until(lambda: stack.provider_stats()["closed_by_client"] > closed)

    run = await caller.ended(run_id)
    assert run["status"] == "cancelled"
    assert run["cancel_requested_at"] <= run["finished_at"]
    assert run["provider"] == "local"
    text = run["output"]["text"]
    assert text
    assert words(3000).startswith(text)
    events = await reader
    assert text_of(events) == text
    assert (events[-1].type, events[-1].data) == ("run.cancelled", {"partial": True})


async def test_a_run_that_waits_for_its_first_token_stops_too(caller, stack):
    open_before = stack.provider_stats()["open_streams"]
    run_id = await caller.create("slow-headers:60000")
    await until(lambda: stack.provider_stats()["open_streams"] > open_before)
    await caller.cancel(run_id)
    run = await caller.ended(run_id)
    assert (run["status"], run["output"]) == ("cancelled", {"text": ""})
    await until(lambda: stack.provider_stats()["open_streams"] == open_before)
    (started, cancelled) = await caller.events(run_id)
    assert (started.type, cancelled.type, cancelled.data) == ("run.started", "run.cancelled", {"partial": False})


async def test_a_cancel_reaches_the_run_from_any_api_process(caller, unworked_url):
    run_id = await caller.create("sim:3000:30")
    await some_text(caller, run_id)
    async with caller.at(unworked_url) as elsewhere:
        await elsewhere.cancel(run_id)
    assert (await caller.ended(run_id))["status"] == "cancelled"


async def test_cancelling_twice_changes_nothing(caller):
    run_id = await caller.create("hang:2")
    await some_text(caller, run_id)
    first, second = await asyncio.gather(caller.cancel(run_id), caller.cancel(run_id))
    assert first["cancel_requested_at"] == second["cancel_requested_at"]
    assert await caller.ended(run_id) == await caller.cancel(run_id) == await caller.get(run_id)
    assert [event.type for event in await caller.events(run_id)] == ["run.started", "run.delta", "run.cancelled"]


@pytest.mark.parametrize(("model", "status"), [("sim:2", "completed"), ("status:400", "failed")])
async def test_cancelling_what_has_ended_changes_nothing(caller, model, status):
    run_id = await caller.create(model)
    before = await caller.ended(run_id)
    events = await caller.events(run_id)
    assert await caller.cancel(run_id) == before
    assert before["status"] == status
    assert await caller.get(run_id) == before
    assert await caller.events(run_id) == events


async def test_a_cancel_against_an_end_at_the_same_time_leaves_one_end(caller):
    runs = [await caller.create("sim:8:200") for _ in range(12)]
    answers = await asyncio.gather(*(_cancel_after(caller, run_id, 0.008 * n) for n, run_id in enumerate(runs)))
    for run_id, answer in zip(runs, answers, strict=True):
        run = await caller.ended(run_id)
        assert answer["status"] in {run["status"], "running"}
        events = await caller.events(run_id)
        assert [event.type for event in events if event.type not in {"run.started", "run.delta"}] == [
            f"run.{run['status']}"
        ]
        assert text_of(events) == (run["output"] or {"text": ""})["text"]


async def _cancel_after(caller, run_id, seconds):
    await asyncio.sleep(seconds)  # spreads the cancels over the runs' last moments; nothing depends on it
    return await caller.cancel(run_id)


async def test_many_cancels_at_once_each_stop_their_run_within_a_second(caller, stack):
    model = f"sim:2999:{10 + random.random()}"
    runs = [await caller.create(model) for _ in range(30)]
    await asyncio.gather(*(some_text(caller, run_id) for run_id in runs))
    began = time.time()
    answers = await asyncio.gather(*(caller.cancel(run_id) for run_id in runs))
    assert {answer["status"] for answer in answers} == {"cancelled"}
    await until(lambda: len(closed(stack, model)) == len(runs))
    assert max(call["ended"] for call in closed(stack, model)) - began < 1
    for run_id in runs:
        run = await caller.get(run_id)
        assert words(2999).startswith(run["output"]["text"])
        assert run["usage"]["estimated"]


def closed(stack, model):
    return [call for call in stack.provider_calls() if call["model"] == model and call["ending"] == "closed"]
