"""What an operator sees of recoveries afterwards: a row of each attempt, and figures to be alerted by."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from proxy import Proxy
from reliability import MakeStack, flush, reading, rows, stopped, unicode_text, until_status, user
from runstream.embedded.port import free_port
from stack import Process, Stack
from viewer import DEADLINE
from waiting import until

LONG = "unicode:150:60"


class Metered:
    """A worker, and what it counts."""

    def __init__(self, stack: Stack, **environment: Any) -> None:
        port = free_port()
        self.process: Process = stack.start_worker(worker_metrics_port=port, **environment)
        self._url = f"http://127.0.0.1:{port}/metrics"

    def count(self, series: str) -> float:
        """What it counted in all its labels; 0 where it has not counted yet."""
        lines = httpx.get(self._url, timeout=DEADLINE).raise_for_status().text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))

    async def until(self, series: str, least: float) -> None:
        await until(lambda: self.count(series) >= least, f"{series} reaches {least}")


async def attempts(stack: Stack, run_id: str) -> list[Any]:
    return await rows(stack, "select * from attempts where run_id = $1 order by attempt", run_id)


def metered(row: Any, text: str) -> bool:
    """Whether the row counts this text, or what came of it until it stopped, by four characters a token."""
    return row["usage_estimated"] and row["input_tokens"] > 0 and row["output_tokens"] >= len(text) // 4


@pytest.mark.promise("P3")
async def test_a_stalled_workers_attempt_is_closed_by_who_took_the_run_over_and_never_by_itself(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(workers=0)
    stalled = await asyncio.to_thread(Metered, stack)
    async with user(stack) as caller:
        run_id = await caller.create(LONG)
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.position > 100)
            held = viewer.text
            with stopped(stalled.process.pid):
                taker = await asyncio.to_thread(Metered, stack)
                await viewer.until(lambda viewer: viewer.attempt == 2 and bool(viewer.text))
                (lapsed, running) = await attempts(stack, run_id)
            await stalled.until("runstream_attempts_fenced_total", 1)
        assert viewer.text == unicode_text(150)
    assert (lapsed["outcome"], lapsed["ended_at"] is None, lapsed["error"]) == ("lapsed", False, None)
    assert metered(lapsed, held)
    assert (running["outcome"], running["ended_at"]) == ("running", None)
    assert lapsed["worker"] != running["worker"]
    first, second = await attempts(stack, run_id)
    assert first == lapsed, "the worker that had stalled wrote to its attempt's row"
    assert (second["outcome"], second["usage_estimated"], second["worker"]) == ("completed", False, running["worker"])
    assert taker.count("runstream_leases_lapsed_total") == 1
    assert taker.count('runstream_sweeps_found_total{as="lapsed"}') >= 1
    assert stalled.count("runstream_leases_lapsed_total") == 0


@pytest.mark.promise("P5")
async def test_an_attempt_that_was_handed_back_says_so_and_what_it_came_to(make_stack: MakeStack) -> None:
    stack = make_stack(workers=0, worker_grace=0)
    leaving = await asyncio.to_thread(stack.start_worker)
    async with user(stack) as caller:
        run_id = await caller.create(LONG)
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.position > 100)
            held = viewer.text
            await asyncio.to_thread(stack.stop, leaving)
            await asyncio.to_thread(stack.start_worker)
    first, second = await attempts(stack, run_id)
    assert (first["outcome"], first["error"], second["outcome"]) == ("handed_back", None, "completed")
    assert metered(first, held)
    assert first["provider"] == "local"
    assert first["first_token_at"]


async def test_the_last_attempt_whose_worker_was_lost_is_lapsed_and_the_run_is_metered_by_what_was_kept(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(max_attempts=1)
    async with user(stack) as caller:
        run_id = await caller.create(LONG)
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.position > 100)
            stack.kill(stack.workers[0])
            await asyncio.to_thread(stack.start_worker)
        run = await caller.get(run_id)
    (attempt,) = await attempts(stack, run_id)
    assert (attempt["outcome"], run["status"], run["error"]["code"]) == ("lapsed", "failed", "worker_lost")
    assert run["usage"]["output_tokens"] == attempt["output_tokens"] == -(-len(viewer.text) // 4)
    assert run["usage"]["estimated"]


async def test_what_redis_lost_and_what_was_made_of_it_is_counted(make_stack: MakeStack) -> None:
    stack = make_stack(workers=0)
    worker = await asyncio.to_thread(lambda: Metered(stack, worker_slots=1))
    async with user(stack) as caller:
        running = await caller.create("hang:1")
        await until_status(stack, running, "running")
        waiting = await caller.create("sim:1")
        flush(stack)
        await worker.until("runstream_runs_enqueued_again_total", 1)
        assert worker.count('runstream_sweeps_found_total{as="stranded"}') >= 1
        await caller.cancel(running)
        assert (await caller.ended(waiting))["status"] == "completed"
        await worker.until("runstream_transcripts_put_back_total", 1)


@pytest.mark.promise("P1")
async def test_an_end_that_waited_for_postgres_is_counted_and_written_once_it_can_be(make_stack: MakeStack) -> None:
    stack = make_stack(workers=0)
    with Proxy.to(stack.database_url) as proxy:
        through = proxy.through(stack.database_url)
        # A lease that outlives the cut, so that the worker does not take its own run for a lost one.
        worker = await asyncio.to_thread(lambda: Metered(stack, database_url=through, lease=DEADLINE))
        async with user(stack) as caller:
            run_id = await caller.create("unicode:60:60")
            async with reading(stack, caller, run_id) as viewer:
                await viewer.until(lambda viewer: viewer.position > 10)
                proxy.cut()
                await worker.until("runstream_ends_held_total", 1)
                assert (await caller.get(run_id))["status"] == "running"
                proxy.mend()
            assert viewer.text == unicode_text(60)
            assert (await caller.get(run_id))["status"] == "completed"
    assert worker.count("runstream_ends_held_total") == 1
    (attempt,) = await attempts(stack, run_id)
    assert (attempt["outcome"], attempt["usage_estimated"]) == ("completed", False)
