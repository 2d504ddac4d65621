"""Runs that ask for the same at once share one call to a provider, in whichever process they are, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest

from caller import Caller, own_model, words
from reliability import SHORT_LEASES, flush, logged, reading, rows, stopped
from runstream.runs.sharing.call import call_name
from stack import PROVIDER, Process, Stack
from viewer import Viewer
from waiting import until

ALL = 100
SLOTS = 60
"""Of a worker: one alone has no room for all."""
LONG = 200
"""Tokens, at fifty a second."""
SEEN = 10
"""Tokens that all have been given when something happens."""


@pytest.fixture(scope="module")
def standing(make_shared_stack: Callable[..., Stack]) -> Stack:
    return make_shared_stack(
        workers=0,
        **SHORT_LEASES,
        worker_slots=str(SLOTS),
        worker_grace="0",
        prices=json.dumps({f"{PROVIDER}/*": {"input": 1, "output": 1}}),
    )


@pytest.fixture
async def stack(standing: Stack) -> Stack:
    """One API process and two workers."""
    missing = 2 - len(standing.workers)
    await asyncio.gather(*(asyncio.to_thread(standing.start_worker) for _ in range(missing)))
    return standing


@pytest.fixture
async def caller(stack: Stack) -> AsyncIterator[Caller]:
    async with Caller.of(stack, f"tenant-{uuid4().hex}", "ada") as caller:
        yield caller


class Party:
    """Runs that share a call, each with a viewer; the first is the one that began it."""

    def __init__(self, stack: Stack, caller: Caller, model: str, open_: AsyncExitStack) -> None:
        self.stack = stack
        self.caller = caller
        self.model = model
        self.viewers: list[Viewer] = []
        self._open = open_

    @property
    def leader(self) -> Viewer:
        return self.viewers[0]

    @property
    def others(self) -> list[Viewer]:
        return self.viewers[1:]

    async def join(self) -> Viewer:
        run_id = await self.caller.create(self.model, cache="read")
        viewer = await self._open.enter_async_context(reading(self.stack, self.caller, run_id))
        self.viewers.append(viewer)
        await viewer.until(lambda viewer: len(viewer.text) >= len(words(SEEN)))
        return viewer

    async def maker(self) -> Process:
        """The worker that makes the call."""
        query = "select worker from attempts where run_id = $1 and attempt = 1"
        ((name,),) = await rows(self.stack, query, self.leader.run_id)
        return next(process for process in self.stack.workers if name in process.output())

    async def ledger(self) -> list[tuple[str, int, int, bool]]:
        """Of each line that was paid for its run, attempt, output tokens and whether they are estimated."""
        lines = await lines_of(self.stack, self.caller)
        for line in lines:
            assert not line["cached"] or (line["cost"], line["output_tokens"]) == (0, 0)
        return [
            (line["run_id"], line["attempt"], line["output_tokens"], line["estimated"])
            for line in lines
            if not line["cached"]
        ]


async def party(stack: Stack, caller: Caller, open_: AsyncExitStack, count: int = LONG) -> Party:
    """Of three runs at least, in both workers, which have been given something; the provider stands still."""
    party = Party(stack, caller, own_model(count, 50), open_)
    await party.join()
    stack.provider.pause()
    open_.callback(stack.provider.resume)
    while len(party.viewers) < 3 or await taking_part(stack, caller) < 2:
        assert len(party.viewers) < 20, "one worker has them all"
        await party.join()
    return party


async def taking_part(stack: Stack, caller: Caller) -> int:
    """Workers that have the tenant's runs."""
    query = "select count(distinct worker) from attempts where tenant = $1"
    return (await rows(stack, query, caller.tenant))[0][0]


async def lines_of(stack: Stack, caller: Caller) -> Sequence[Any]:
    return await rows(stack, "select * from ledger where tenant = $1 order by made_at", caller.tenant)


def assert_whole(viewers: Sequence[Viewer], count: int = LONG) -> None:
    for viewer in viewers:
        assert viewer.end
        assert (viewer.end[0], viewer.text) == ("run.completed", words(count))


@pytest.mark.promise("P2", "P8")
async def test_a_hundred_identical_requests_at_once_make_one_call(stack, caller):
    model = own_model(LONG)

    async def all_under_way() -> bool:
        query = "select count(*) from runs where tenant = $1 and status = 'running'"
        return (await rows(stack, query, caller.tenant))[0][0] == ALL

    with stopped(stack.provider.pid):
        ids = await asyncio.gather(*(caller.create(model, cache="read") for _ in range(ALL)))
        await until(all_under_way, "all are under way")
    runs = await asyncio.gather(*(caller.ended(run_id) for run_id in ids))
    assert len(stack.provider_calls(model)) == 1
    assert await taking_part(stack, caller) == 2
    for run in runs:
        assert (run["status"], run["attempt"], run["output"]) == ("completed", 1, {"text": words(LONG)})
        told = await caller.events(run["id"])
        assert [event.type for event in told] == ["run.started", "run.delta", "run.completed"]
    lines = await lines_of(stack, caller)
    (paid,) = [line for line in lines if not line["cached"]]
    assert (paid["output_tokens"], paid["estimated"], len(lines)) == (LONG, False, ALL)
    for line in lines:
        if line is not paid:
            assert (line["cost"], line["output_tokens"], line["saved_cost"]) == (0, 0, paid["cost"])
    assert sorted(run["cached"] for run in runs) == [False, *[True] * (ALL - 1)]
    assert (await caller.ended(await caller.create(model, cache="read")))["cached"]


@pytest.mark.promise("P6")
async def test_one_of_those_who_share_a_call_is_cancelled_and_the_others_go_on(stack, caller):
    async with AsyncExitStack() as open_:
        sharing = await party(stack, caller, open_)
        cancelled = await caller.cancel(sharing.others[-1].run_id)
        assert cancelled["status"] == "cancelled"
        assert cancelled["output"]["text"]
        stack.provider.resume()
    assert_whole([sharing.leader, *sharing.others[:-1]])
    assert len(stack.provider_calls(sharing.model)) == 1
    assert await sharing.ledger() == [(sharing.leader.run_id, 1, LONG, False)]


@pytest.mark.promise("P6", "P8")
async def test_the_run_that_began_a_call_is_cancelled_and_pays_for_what_the_others_are_given(stack, caller):
    async with AsyncExitStack() as open_:
        sharing = await party(stack, caller, open_)
        assert (await caller.cancel(sharing.leader.run_id))["status"] == "cancelled"
        assert sharing.leader.text != words(LONG)
        stack.provider.resume()
    assert_whole(sharing.others)
    assert [call["ending"] for call in stack.provider_calls(sharing.model)] == ["finish"]

    async def paid() -> bool:
        return await sharing.ledger() == [(sharing.leader.run_id, 1, LONG, False)]

    await until(paid, "the whole call is paid for")
    ((cost,),) = await rows(stack, "select cost from ledger where run_id = $1", sharing.leader.run_id)
    assert float((await caller.get(sharing.leader.run_id))["cost"]) == float(cost)
    assert (await caller.http.get("/v1/usage")).json()["data"][0]["output_tokens"] == LONG


async def test_a_call_that_nobody_wants_any_more_is_stopped_and_paid_for_once(stack, caller):
    async with AsyncExitStack() as open_:
        sharing = await party(stack, caller, open_)
        for viewer in sharing.viewers:
            await caller.cancel(viewer.run_id)
        stack.provider.resume()
        await until(lambda: stack.provider_calls(sharing.model)[0]["ending"] == "closed", "the call is closed")
    ((run_id, attempt, tokens, estimated),) = await sharing.ledger()
    assert (run_id, attempt, estimated) == (sharing.leader.run_id, 1, True)
    assert 0 < tokens < LONG


@pytest.mark.promise("P1", "P5")
@pytest.mark.parametrize("cancelled", [False, True])
async def test_the_worker_that_makes_a_call_is_killed_and_all_who_shared_it_have_the_whole_of_another(
    stack, caller, cancelled
):
    async with AsyncExitStack() as open_:
        sharing = await party(stack, caller, open_)
        maker = await sharing.maker()
        if cancelled:
            await caller.cancel(sharing.leader.run_id)
        stack.kill(maker)
        stack.provider.resume()
    readers = sharing.others if cancelled else sharing.viewers
    assert_whole(readers)
    assert all(viewer.restarts for viewer in readers)
    assert "shared_call_lost" in {restart["reason"] for viewer in readers for restart in viewer.restarts}
    calls = stack.provider_calls(sharing.model)
    assert [call["ending"] for call in calls] == ["closed", *["finish"] * (len(calls) - 1)]
    lost, *finished = await sharing.ledger()
    assert (lost[0], lost[1], lost[3]) == (sharing.leader.run_id, 1, True)
    assert [line[2:] for line in finished] == [(LONG, False)] * (len(calls) - 1)


async def test_the_worker_that_makes_a_call_is_told_to_stop_and_all_who_shared_it_have_the_whole_of_another(
    stack, caller
):
    async with AsyncExitStack() as open_:
        sharing = await party(stack, caller, open_)
        stack.stop(await sharing.maker())
        stack.provider.resume()
    assert_whole(sharing.viewers)
    calls = stack.provider_calls(sharing.model)
    assert [call["ending"] for call in calls] == ["closed", *["finish"] * (len(calls) - 1)]
    handed_back, *finished = await sharing.ledger()
    assert (handed_back[0], handed_back[3]) == (sharing.leader.run_id, True)
    assert [line[2:] for line in finished] == [(LONG, False)] * (len(calls) - 1)


async def test_redis_is_emptied_under_those_who_share_a_call_and_they_go_on_with_it(stack, caller):
    async with AsyncExitStack() as open_:
        sharing = await party(stack, caller, open_)
        flush(stack)
        stack.provider.resume()
    assert_whole(sharing.viewers)
    assert [viewer.restarts for viewer in sharing.viewers] == [[]] * len(sharing.viewers)
    assert len(stack.provider_calls(sharing.model)) == 1
    assert await sharing.ledger() == [(sharing.leader.run_id, 1, LONG, False)]


async def test_a_call_that_fails_fails_for_all_who_share_it_and_is_paid_for_once(stack, caller):
    prompt = uuid4().hex
    ids = await asyncio.gather(*(caller.create("cut:20", prompt=prompt, cache="read") for _ in range(10)))
    runs = await asyncio.gather(*(caller.ended(run_id) for run_id in ids))
    assert {(run["status"], run["error"]["code"]) for run in runs} == {("failed", "provider_protocol_error")}
    assert {run["output"]["text"] for run in runs} == {words(20)}
    calls = [call for call in stack.provider_calls() if call["asked"] == prompt]
    assert 3 <= len(calls) < 30
    assert len([line for line in await lines_of(stack, caller) if line["output_tokens"]]) == len(calls)


@pytest.mark.promise("P8")
async def test_a_call_whose_run_is_deleted_goes_on_for_others_and_leaves_nothing_when_it_is_over(
    stack: Stack, caller: Caller
) -> None:
    async with AsyncExitStack() as open_:
        shared = await party(stack, caller, open_)
        run_id = shared.leader.run_id
        call = call_name(run_id, 1)
        await until(lambda: "run.delta" in said(stack, call), "it is written for the other worker")
        assert (await caller.http.delete(f"/v1/runs/{run_id}")).status_code == 204
        stack.provider.resume()
    assert shared.leader.end is not None
    assert shared.leader.end[0] == "run.cancelled"
    assert_whole(shared.others)
    await until(lambda: said(stack, call) in (["run.restarted", "run.cancelled"], []), "its log is taken away")

    async def paid() -> bool:
        return await shared.ledger() == [(run_id, 1, LONG, False)]

    await until(paid, "it is paid for by the run that began it, once")
    assert stack.provider_stats()["calls"][shared.model] == 1


def said(stack: Stack, name: str) -> list[str]:
    return [type_ for _, type_ in logged(stack, name)]
