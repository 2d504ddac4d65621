"""What a queue that is full answers, and what memory holds when readers and providers do their worst."""

from __future__ import annotations

import asyncio
from collections import Counter

from caller import Caller
from reliability import MakeStack, rows, user

TOO_MANY = ("429", "too_many_queued")
FULL = ("503", "queue_full")
ACCEPTED = ("202", "")


async def answers(*posts: asyncio.Future) -> Counter[tuple[str, str]]:
    """How often each status and code was answered; every refusal says when to come back."""
    counted: Counter[tuple[str, str]] = Counter()
    for answer in await asyncio.gather(*posts):
        accepted = answer.status_code == 202
        assert accepted or int(answer.headers["retry-after"]) > 0
        counted[str(answer.status_code), "" if accepted else answer.json()["error"]["code"]] += 1
    return counted


# The queue


async def test_a_tenant_whose_runs_wait_is_refused_more_and_others_are_not(make_stack: MakeStack) -> None:
    stack = make_stack(workers=0, max_queued_per_tenant=10, max_queued=15)
    async with user(stack) as greedy, Caller.of(stack, "other", "bob") as other:
        assert await answers(*(greedy.post() for _ in range(30))) == {ACCEPTED: 10, TOO_MANY: 20}
        assert await answers(*(other.post() for _ in range(5))) == {ACCEPTED: 5}
        assert await answers(*(other.post() for _ in range(4))) == {FULL: 4}
        assert (await rows(stack, "select count(*) from runs"))[0][0] == 15, "what is refused leaves nothing"


async def test_a_full_queue_takes_runs_again_as_soon_as_they_are_taken_up(make_stack: MakeStack) -> None:
    stack = make_stack(workers=0, max_queued=5)
    async with user(stack) as caller:
        run_ids = [await caller.create() for _ in range(5)]
        assert await answers(caller.post()) == {FULL: 1}
        await asyncio.to_thread(stack.start_worker)
        await asyncio.gather(*map(caller.ended, run_ids))
        assert await answers(*(caller.post() for _ in range(5))) == {ACCEPTED: 5}


async def test_a_retried_request_finds_its_run_though_the_queue_is_full(make_stack: MakeStack) -> None:
    stack = make_stack(workers=0, max_queued=1)
    async with user(stack) as caller:
        headers = {"Idempotency-Key": "order-933"}
        run_id = (await caller.post(headers=headers)).json()["id"]
        again = await caller.post(headers=headers)
        assert (again.status_code, again.json()["id"]) == (202, run_id)
        assert (await caller.post("sim:6", headers=headers)).status_code == 409
        assert (await caller.post(headers={"Idempotency-Key": "order-934"})).status_code == 503


async def test_api_processes_pass_the_bound_together_by_no_more_than_they_accept_between_two_counts(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(apis=2, workers=0, max_queued=20)
    async with user(stack) as caller, caller.at(stack.urls[1]) as elsewhere:
        at_once = await answers(*(each.post() for each in (caller, elsewhere) for _ in range(30)))
        assert 20 <= at_once[ACCEPTED] <= 40
        assert at_once[ACCEPTED] + at_once[FULL] == 60
        assert await answers(caller.post(), elsewhere.post()) == {FULL: 2}
