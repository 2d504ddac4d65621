"""What Runstream promises when things die: real processes, killed, stopped and emptied while somebody reads."""

from __future__ import annotations

import asyncio
import random
import time
from itertools import cycle

import aiohttp
import orjson
import pytest
import redis

from caller import Caller, words
from reliability import (
    MakeStack,
    assert_told_the_same_after_the_end,
    flush,
    jobs,
    logged,
    reading,
    rows,
    stopped,
    unicode_text,
    until_status,
    user,
)
from stack import Stack
from viewer import DEADLINE, Viewer
from waiting import until

CUTS = 20
GENERATIONS = 500


# Readers (P2)


@pytest.mark.promise("P2")
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_reader_cut_at_random_twenty_times_on_two_api_processes_in_turn_holds_the_exact_text(
    stack: Stack, unworked_url: str, seed: int
) -> None:
    random_ = random.Random(seed)
    urls = cycle([stack.url, unworked_url])
    async with user(stack) as caller, asyncio.timeout(DEADLINE):
        run_id = await caller.create("unicode:2000:500")
        async with Viewer(caller.key, run_id) as viewer:
            for _ in range(CUTS):
                await viewer.read(next(urls), cut_after=random_.randint(1, 3000))
                assert viewer.end is None, "all cuts are to come before the end"
            await viewer.read(next(urls))
            assert viewer.text == unicode_text(2000)
            assert viewer.end
            assert viewer.end[0] == "run.completed"


@pytest.mark.promise("P2")
async def test_a_reader_that_comes_with_any_cursor_after_the_end_holds_the_exact_text_though_redis_is_empty(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(apis=2)
    async with user(stack) as caller:
        run_id = await caller.create("unicode:500")
        await caller.ended(run_id)
    flush(stack)
    text = unicode_text(500)
    end = len(text) + 2  # the first and the last event take one position each
    cursors = iter(range(end + 1))

    async def come(url: str) -> None:
        headers = {"Authorization": f"Bearer {stack.key}"}
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(DEADLINE)) as session:
            for position in cursors:
                asked = {"Last-Event-ID": f"1-{position}"}
                async with session.get(f"{url}/v1/runs/{run_id}/events", headers=asked) as response:
                    assert response.status == (204 if position == end else 200)
                    viewer = Viewer(stack.key, run_id)
                    viewer.attempt, viewer.position = 1, position
                    for block in (await response.text()).split("\n\n")[:-1]:
                        viewer.take(block)
                    assert viewer.text == text[max(0, position - 1) :]
                    assert viewer.position == end

    await asyncio.gather(*(come(url) for url in stack.urls * 2))


@pytest.mark.promise("P1", "P2")
async def test_readers_and_the_stored_transcript_stay_exact_though_redis_is_emptied_again_and_again(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(apis=2)
    async with user(stack) as caller:
        run_id = await caller.create("unicode:900:300")
        async with reading(stack, caller, run_id, url=stack.urls[0]) as first:
            for position in (100, 1000, 2000, 3000):
                await first.until(lambda viewer, position=position: viewer.position > position)
                flush(stack)
            async with reading(stack, caller, run_id, url=stack.urls[1]) as second:
                pass
        for viewer in (first, second):
            assert viewer.text == unicode_text(900)
            assert viewer.attempt == 1
            await assert_told_the_same_after_the_end(stack, caller, viewer)


@pytest.mark.promise("P1", "P2")
async def test_a_run_goes_on_while_redis_is_killed_and_comes_back_empty(make_stack: MakeStack) -> None:
    stack = make_stack(heartbeat=1)
    async with user(stack) as caller:
        run_id = await caller.create("unicode:600:200")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.position > 100)
            stack.valkey.kill()
            stack.valkey.start()
        assert viewer.text == unicode_text(600)
        assert viewer.attempt == 1
        await assert_told_the_same_after_the_end(stack, caller, viewer)


@pytest.mark.promise("P2")
async def test_a_stopping_api_process_sends_its_readers_elsewhere_at_once(make_stack: MakeStack) -> None:
    stack = make_stack(apis=2, shutdown_grace=20)
    leaving, staying = stack.apis
    async with Caller(staying.url, stack.key, "acme", "ada") as caller:
        run_id = await caller.create("unicode:1200:100")
        viewers = [Viewer(caller.key, run_id) for _ in range(20)]
        reads = [asyncio.create_task(viewer.read(leaving.url)) for viewer in viewers]
        await asyncio.gather(*(viewer.until(lambda viewer: viewer.position > 50) for viewer in viewers))
        leaving.terminate()
        await asyncio.gather(*reads)
        for viewer in viewers:
            assert viewer.end is None, "it went before the run's end"
            assert len(viewer.retries) == 1
        await asyncio.to_thread(leaving.wait, 10)
        assert (await caller.get(run_id))["status"] == "running"
        await asyncio.gather(*(viewer.read(staying.url) for viewer in viewers))
        for viewer in viewers:
            assert viewer.text == unicode_text(1200)
            await viewer.http.aclose()


# Workers (P1, P3, P5)


@pytest.mark.promise("P1", "P2", "P5")
async def test_a_run_whose_worker_is_killed_begins_again_and_says_so(make_stack: MakeStack) -> None:
    stack = make_stack()
    async with user(stack) as caller:
        run_id = await caller.create("unicode:400:100")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.position > 100)
            stack.kill(stack.workers[0])
            await asyncio.to_thread(stack.start_worker)
        assert viewer.restarts == [{"attempt": 2, "reason": "worker_lost"}]
        assert viewer.text == unicode_text(400)
        assert viewer.end
        assert viewer.end[0] == "run.completed"
        await assert_told_the_same_after_the_end(stack, caller, viewer)


@pytest.mark.promise("P1")
async def test_every_accepted_run_is_completed_though_its_worker_is_killed_as_it_takes_them(
    make_stack: MakeStack,
) -> None:
    stack = make_stack()
    async with user(stack) as caller:
        creating = [asyncio.create_task(caller.create("sim:50:100")) for _ in range(40)]
        await asyncio.wait(creating, return_when=asyncio.FIRST_COMPLETED)
        stack.kill(stack.workers[0])
        await asyncio.to_thread(stack.start_worker)
        for run_id in await asyncio.gather(*creating):
            run = await caller.ended(run_id)
            assert (run["status"], run["output"]["text"]) == ("completed", words(50))


async def test_a_killed_worker_leaves_nothing_in_the_queue(make_stack: MakeStack) -> None:
    stack = make_stack()
    async with user(stack) as caller:
        run_ids = [await caller.create("hang:1") for _ in range(3)]
        for run_id in run_ids:
            await until_status(stack, run_id, "running")
        stack.kill(stack.workers[0])
        await asyncio.to_thread(stack.start_worker)
        for run_id in run_ids:
            async with reading(stack, caller, run_id) as viewer:
                await viewer.until(lambda viewer: viewer.attempt == 2)
                await caller.cancel(run_id)
    await until(lambda: not jobs(stack), "no job is left")


async def test_a_job_that_was_taken_in_an_answer_that_was_lost_is_given_back(make_stack: MakeStack) -> None:
    """Redis has done what it was asked, and the worker does not know: as it is put there by hand."""
    stack = make_stack()
    async with user(stack) as caller:
        run_id = await caller.create("sim:5")
        assert (await caller.ended(run_id))["status"] == "completed"
    ready = next(line for line in stack.workers[0].output().splitlines() if "worker_ready" in line)
    worker, job, later = orjson.loads(ready)["worker"], f"{run_id}:0", (time.time() + 1000) * 1000
    with redis.Redis.from_url(stack.redis_url, socket_timeout=DEADLINE) as client:
        client.zadd("runstream:queue:default", {job: later})
        client.sadd(f"runstream:taken:default:{worker}", job)
    await until(lambda: not jobs(stack), "no job is left")


@pytest.mark.promise("P1")
async def test_a_run_whose_job_redis_lost_is_run_all_the_same(make_stack: MakeStack) -> None:
    stack = make_stack(workers=0)
    async with user(stack) as caller:
        run_id = await caller.create("sim:5")
        flush(stack)
        await asyncio.to_thread(stack.start_worker)
        assert (await caller.ended(run_id))["status"] == "completed"


@pytest.mark.promise("P1")
async def test_a_run_is_accepted_and_run_though_redis_was_away_when_it_came(make_stack: MakeStack) -> None:
    stack = make_stack()
    async with user(stack) as caller:
        stack.valkey.kill()
        run_id = await caller.create("sim:5")
        stack.valkey.start()
        assert (await caller.ended(run_id))["status"] == "completed"


@pytest.mark.promise("P1", "P5")
async def test_a_run_that_a_living_worker_holds_without_knowing_is_taken_up(stack: Stack, unworked_url: str) -> None:
    """As it is when the answer to its claim was lost on its way."""
    async with user(stack) as caller, caller.at(unworked_url) as unworked:
        run_id = await unworked.create("sim:5")
        await rows(
            stack,
            "update runs set status = 'running', attempt = 1, queue = 'default',"
            " worker = (select id from workers order by lease_until desc limit 1) where id = $1",
            run_id,
        )
        async with reading(stack, caller, run_id) as viewer:
            pass
        assert viewer.restarts == [{"attempt": 2, "reason": "worker_lost"}]
        assert viewer.text == words(5)


@pytest.mark.promise("P1", "P5")
async def test_a_worker_told_to_stop_hands_its_runs_to_another(make_stack: MakeStack) -> None:
    stack = make_stack(worker_grace=0.2)
    async with user(stack) as caller:
        run_ids = await asyncio.gather(*(caller.create("unicode:300:25") for _ in range(10)))
        async with reading(stack, caller, run_ids[0]) as viewer:
            await viewer.until(lambda viewer: viewer.position > 100)
            assert await asyncio.to_thread(stack.stop, stack.workers[0]) == 0
            await asyncio.to_thread(stack.start_worker)
        assert viewer.restarts == [{"attempt": 2, "reason": "worker_stopped"}]
        assert viewer.text == unicode_text(300)
        for run_id in run_ids:
            run = await caller.ended(run_id)
            assert (run["status"], run["attempt"]) == ("completed", 2)


@pytest.mark.promise("P1")
async def test_a_worker_told_to_stop_finishes_what_it_can_in_its_grace_time(make_stack: MakeStack) -> None:
    stack = make_stack(worker_grace=30)
    async with user(stack) as caller:
        run_id = await caller.create("unicode:200:100")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.position > 10)
            assert await asyncio.to_thread(stack.stop, stack.workers[0]) == 0
        assert viewer.attempt == 1
        assert viewer.text == unicode_text(200)


@pytest.mark.promise("P3", "P5")
async def test_a_worker_that_stalled_past_its_lease_adds_nothing_when_it_wakes_up(make_stack: MakeStack) -> None:
    stack = make_stack()
    stalled = stack.workers[0]
    async with user(stack) as caller:
        run_id = await caller.create("unicode:300:60")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.position > 100)
            with stopped(stalled.pid):
                await asyncio.to_thread(stack.start_worker)
                await viewer.until(lambda viewer: viewer.attempt == 2 and bool(viewer.text))
            await until(lambda: "attempt_fenced" in stalled.output(), "the stalled worker gives up")
        assert viewer.restarts == [{"attempt": 2, "reason": "worker_lost"}]
        assert viewer.text == unicode_text(300)
        assert {entry_id.split("-")[0] for entry_id, _ in logged(stack, run_id)} == {"2"}
        run = await caller.get(run_id)
        assert (run["status"], run["attempt"], run["output"]["text"]) == ("completed", 2, unicode_text(300))
        await assert_told_the_same_after_the_end(stack, caller, viewer)


@pytest.mark.promise("P1", "P3")
async def test_a_lone_worker_that_stalled_past_its_lease_completes_its_runs(make_stack: MakeStack) -> None:
    stack = make_stack()
    async with user(stack) as caller:
        run_ids = await asyncio.gather(*(caller.create("unicode:300:60") for _ in range(5)))
        async with reading(stack, caller, run_ids[0]) as viewer:
            await viewer.until(lambda viewer: viewer.position > 100)
            with stopped(stack.workers[0].pid):
                await until(lambda: _lapsed(stack), "the lease lapses")
        assert viewer.text == unicode_text(300)
        for run_id in run_ids:
            run = await caller.ended(run_id)
            assert (run["status"], run["output"]["text"]) == ("completed", unicode_text(300))


async def _lapsed(stack: Stack) -> bool:
    return (await rows(stack, "select bool_and(lease_until < now()) from workers"))[0][0]


@pytest.mark.promise("P1", "P2")
async def test_an_end_that_was_written_but_not_announced_reaches_its_readers(make_stack: MakeStack) -> None:
    """Redis stands still, so that the worker can write the row and announce nothing before it is killed."""
    stack = make_stack(heartbeat=1)
    async with user(stack) as caller:
        run_id = await caller.create("unicode:100:50")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.position > 50)
            with stopped(stack.valkey.pid):
                await until_status(stack, run_id, "completed")
                stack.kill(stack.workers[0])
        assert "run.completed" not in {type_ for _, type_ in logged(stack, run_id)}
        assert viewer.text == unicode_text(100)
        assert viewer.attempt == 1
        await assert_told_the_same_after_the_end(stack, caller, viewer)


@pytest.mark.promise("P1", "P2", "P5")
async def test_the_text_of_the_last_attempt_is_kept_when_its_worker_is_lost(make_stack: MakeStack) -> None:
    stack = make_stack(max_attempts=1)
    async with user(stack) as caller:
        run_id = await caller.create("unicode:400:50")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.position > 100)
            stack.kill(stack.workers[0])
            held = viewer.text
            await asyncio.to_thread(stack.start_worker)
        assert viewer.end
        assert (viewer.end[0], viewer.end[1]["error"]["code"]) == ("run.failed", "worker_lost")
        assert viewer.end[1]["partial"] is True
        assert viewer.text.startswith(held)
        assert unicode_text(400).startswith(viewer.text)
        run = await caller.get(run_id)
        assert (run["status"], run["output"]["text"]) == ("failed", viewer.text)
        await assert_told_the_same_after_the_end(stack, caller, viewer)


# Cancelling (P6)


@pytest.mark.promise("P6")
async def test_a_cancel_takes_effect_though_redis_is_away(make_stack: MakeStack) -> None:
    stack = make_stack(heartbeat=1)
    async with user(stack) as caller:
        run_id = await caller.create("unicode:2000:50")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.position > 50)
            held = viewer.text
            with stopped(stack.valkey.pid):
                await caller.cancel(run_id)
                run = await caller.ended(run_id)
                assert run["status"] == "cancelled"
        assert viewer.end == ("run.cancelled", {"partial": True})
        assert viewer.text.startswith(held)
        assert run["output"]["text"] == viewer.text
        await until(lambda: not stack.provider_stats()["open_streams"], "the call is closed")


@pytest.mark.promise("P6")
async def test_a_cancelled_run_whose_worker_is_lost_ends_as_cancelled_with_its_text(make_stack: MakeStack) -> None:
    stack = make_stack()
    async with user(stack) as caller:
        run_id = await caller.create("unicode:2000:50")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.position > 50)
            held = viewer.text
            stack.kill(stack.workers[0])
            await caller.cancel(run_id)
            await asyncio.to_thread(stack.start_worker)
        assert viewer.end == ("run.cancelled", {"partial": True})
        assert viewer.text.startswith(held)
        await assert_told_the_same_after_the_end(stack, caller, viewer)


# Many


@pytest.mark.promise("P1")
async def test_one_worker_process_holds_five_hundred_generations_at_a_time(make_stack: MakeStack) -> None:
    stack = make_stack(worker_slots=GENERATIONS, first_token_timeout=5 * DEADLINE)
    async with user(stack) as caller:
        gate = asyncio.Semaphore(50)

        async def create() -> str:
            async with gate:
                return await caller.create("sim:40:20")

        count = "select count(*) from runs where status = $1 and attempt = 1"

        async def all_run() -> bool:
            return (await rows(stack, count, "running"))[0][0] == GENERATIONS

        async def all_ended() -> bool:
            return (await rows(stack, count, "completed"))[0][0] == GENERATIONS

        with stopped(stack.provider.pid):
            run_ids = await asyncio.gather(*(create() for _ in range(GENERATIONS)))
            await until(all_run, "all run at the same time")
        await until(all_ended, "all end")
        outputs = await rows(stack, "select id, output from runs")
        assert {row["id"]: row["output"] for row in outputs} == dict.fromkeys(run_ids, words(40))
