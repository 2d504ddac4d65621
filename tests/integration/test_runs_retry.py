"""A run that failed or was cancelled is tried again when somebody asks for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import uuid4

import httpx
import pytest

from caller import DEADLINE, Caller, text_of, words
from waiting import until

OLD_END = "1-1"
"""The cursor of the end of a run that was cancelled while it was queued."""


async def retry(caller, run_id) -> httpx.Response:
    return await caller.http.post(f"/v1/runs/{run_id}/retry")


async def attempts(caller, run_id):
    return (await caller.http.get(f"/v1/runs/{run_id}/attempts")).raise_for_status().json()["data"]


async def cancelled_in_the_middle(caller) -> tuple[str, list]:
    """A run that said something before it was cancelled, and its events."""
    run_id = await caller.create("hang:2")
    async for event in caller.follow(run_id):
        if event.type == "run.delta":
            await caller.cancel(run_id)
    await caller.ended(run_id)
    return run_id, await caller.events(run_id)


@pytest.mark.promise("P5")
async def test_a_failed_run_is_tried_again_as_a_new_attempt_that_may_complete(caller):
    run_id = await caller.create("flaky:3:6", prompt=uuid4().hex)
    failed = await caller.ended(run_id)
    assert (failed["status"], failed["attempt"], failed["max_attempts"]) == ("failed", 3, 3)
    answer = await retry(caller, run_id)
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/runs/{run_id}")
    queued = answer.json()
    assert (queued["id"], queued["status"], queued["created_at"]) == (run_id, "queued", failed["created_at"])
    for emptied in ("output", "error", "finish_reason", "usage", "provider", "first_token_at", "finished_at"):
        assert queued[emptied] is None, emptied
    run = await caller.ended(run_id)
    assert (run["status"], run["attempt"], run["max_attempts"]) == ("completed", 4, 4)
    assert run["output"] == {"text": words(6)}
    events = await caller.events(run_id)
    assert (events[0].type, events[0].data) == ("run.restarted", {"attempt": 4, "reason": "retry"})
    assert text_of(events) == words(6)
    assert [attempt["outcome"] for attempt in await attempts(caller, run_id)] == [
        *("retried", "retried", "failed", "completed")
    ]


async def test_a_retry_leaves_the_attempts_that_the_run_has_left(caller):
    run_id = await caller.create("status:400")
    first = await caller.ended(run_id)
    await retry(caller, run_id)
    second = await caller.ended(run_id)
    assert [(run["status"], run["attempt"], run["max_attempts"]) for run in (first, second)] == [
        *(("failed", 1, 3), ("failed", 2, 3))
    ]
    assert second["error"] == first["error"]


async def test_a_cancelled_run_goes_on_when_it_is_tried_again_and_can_be_cancelled_again(caller):
    run_id, before = await cancelled_in_the_middle(caller)
    assert (await retry(caller, run_id)).json()["cancel_requested_at"] is None
    events = []
    async for event in caller.follow(run_id, before[-1].id):
        events.append(event)
        if event.type == "run.delta":
            await caller.cancel(run_id)
    assert [event.type for event in events] == ["run.restarted", "run.delta", "run.cancelled"]
    assert (await caller.ended(run_id))["attempt"] == 2
    assert [attempt["outcome"] for attempt in await attempts(caller, run_id)] == ["cancelled", "cancelled"]


async def test_what_is_not_failed_or_cancelled_is_not_tried_again(caller, unworked_url):
    async with caller.at(unworked_url) as idle:
        queued = await idle.create()
    running = await caller.create("hang:1")
    async for _ in caller.follow(running):
        break
    completed = await caller.create("sim:1")
    await caller.ended(completed)
    for run_id, status in ((queued, "queued"), (running, "running"), (completed, "completed")):
        before = await caller.get(run_id)
        answer = await retry(caller, run_id)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
        assert answer.json()["error"]["message"] == (
            f"The run is {status}: only a failed or cancelled one can be tried again."
        )
        assert await caller.get(run_id) == before
    await caller.cancel(running)


async def test_of_many_who_ask_at_once_one_makes_the_new_attempt(caller, stack, unworked_url):
    run_id = await caller.create("status:400")
    await caller.ended(run_id)
    async with caller.at(unworked_url) as elsewhere:
        answers = await asyncio.gather(*(retry(each, run_id) for each in (caller, elsewhere) * 10))
        again = Counter(answer.status_code for answer in answers)[202]
        run = await caller.ended(run_id)
    # Those who came after the new attempt had failed as well were right to ask for another one.
    assert run["attempt"] == 1 + again
    assert [attempt["attempt"] for attempt in await attempts(caller, run_id)] == list(range(1, 2 + again))


async def test_of_many_who_ask_for_a_run_that_no_worker_takes_one_is_told_yes(unworked):
    run_id = await unworked.create()
    await unworked.cancel(run_id)
    answers = await asyncio.gather(*(retry(unworked, run_id) for _ in range(20)))
    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: 19}
    assert (await unworked.get(run_id))["status"] == "queued"


@pytest.mark.promise("P2")
async def test_a_reader_of_the_old_end_is_told_of_the_new_attempt_once_it_is_asked_for(unworked, stack):
    run_id = await unworked.create("sim:5")
    await unworked.cancel(run_id)
    assert [event.id for event in await unworked.events(run_id)] == [OLD_END]
    at_the_end = await unworked.http.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": OLD_END})
    assert at_the_end.status_code == 204
    await retry(unworked, run_id)
    reading = asyncio.create_task(unworked.events(run_id, OLD_END))
    worker = await asyncio.to_thread(stack.start_worker, queue="unworked")
    try:
        async with asyncio.timeout(DEADLINE):
            events = await reading
    finally:
        stack.kill(worker)
    assert (events[0].type, events[0].data) == ("run.restarted", {"attempt": 2, "reason": "retry"})
    assert (events[-1].type, text_of(events)) == ("run.completed", words(5))


@pytest.mark.promise("P2", "P5")
async def test_who_comes_after_a_retry_is_told_nothing_of_the_end_that_was_taken_back(make_stack):
    """The log still holds that end, and no worker is there to begin anew: from any place readers wait for that."""
    stack = make_stack()
    async with Caller.of(stack, "acme", "ada") as caller:
        run_id, before = await cancelled_in_the_middle(caller)
        stack.kill(stack.workers[0])
        assert (await retry(caller, run_id)).status_code == 202
        cursors = [None, *(event.id for event in before)]
        readers = [asyncio.create_task(caller.events(run_id, cursor)) for cursor in cursors]
        await until(lambda: f"runstream_readers {len(readers)}.0" in httpx.get(f"{stack.url}/metrics").text)
        await asyncio.to_thread(stack.start_worker)
        async for event in caller.follow(run_id):
            if event.type == "run.delta":
                await caller.cancel(run_id)
        told = await asyncio.gather(*readers)
        assert "runstream_runs_tried_again_total 1.0" in (await caller.http.get("/metrics")).text
        late = await caller.events(run_id)
    assert [(event.id.partition("-")[0], event.type) for event in late] == [
        *(("2", "run.restarted"), ("2", "run.delta"), ("2", "run.cancelled"))
    ]
    for events in told:
        assert (events[0], events[-1], text_of(events)) == (late[0], late[-1], text_of(late))


async def test_a_retry_that_is_cancelled_before_it_begins_keeps_nothing_of_the_old_text(make_stack):
    stack = make_stack()
    async with Caller.of(stack, "acme", "ada") as caller:
        run_id, before = await cancelled_in_the_middle(caller)
        assert text_of(before)
        stack.kill(stack.workers[0])
        await retry(caller, run_id)
        run = await caller.cancel(run_id)
        assert (run["status"], run["output"], run["usage"]) == ("cancelled", None, None)
        events = await caller.events(run_id, before[-1].id)
    assert [(event.type, event.data) for event in events] == [
        ("run.restarted", {"attempt": 2, "reason": "cancelled"}),
        ("run.cancelled", {"partial": False}),
    ]


async def test_a_retry_is_refused_where_as_many_runs_wait_as_may(make_stack):
    stack = make_stack(workers=0, max_queued_per_tenant=1)
    async with Caller.of(stack, "acme", "ada") as caller:
        run_id = await caller.create()
        cancelled = await caller.cancel(run_id)
        await caller.create()
        answer = await retry(caller, run_id)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_queued")
        assert int(answer.headers["retry-after"]) >= 1
        assert await caller.get(run_id) == cancelled
