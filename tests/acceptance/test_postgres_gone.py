"""Postgres restarts, refuses, stalls and is slow: what is answered meanwhile, and what is there afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from caller import words
from proxy import Proxy
from reliability import (
    MakeStack,
    assert_told_the_same_after_the_end,
    reading,
    rows,
    unicode_text,
    until_status,
    user,
    worker_of,
)
from runstream.embedded import Postgres
from runstream.storage.migrate import upgrade
from stack import outside_the_loop
from viewer import DEADLINE
from waiting import until

LEASE = 3
"""Seconds: the default."""


@pytest.fixture
def way(database_url: str) -> Iterator[Proxy]:
    """The way to a fresh database on the session's Postgres."""
    with Proxy.to(database_url) as proxy:
        yield proxy


@pytest.fixture
def url_by_way(database_url: str, way: Proxy) -> str:
    return way.through(database_url)


async def fetched(url: str, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url, timeout=DEADLINE, command_timeout=DEADLINE)
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()


@asynccontextmanager
async def locked(url: str, table: str, mode: str):
    """Hold a lock, so that a statement is at the server and not done."""
    connection = await asyncpg.connect(url, timeout=DEADLINE, command_timeout=DEADLINE)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN {mode} MODE")
            yield
    finally:
        await connection.close()


def assert_come_back_later(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable"), answer.text
    assert int(answer.headers["retry-after"]) > 0


# Requests


async def test_a_request_while_postgres_refuses_is_told_so_at_once_and_accepts_nothing(
    make_stack: MakeStack, database_url: str, way: Proxy, url_by_way: str
) -> None:
    stack = make_stack(workers=0, database_url=url_by_way)
    async with user(stack) as caller:
        way.cut()
        for _ in range(3):
            assert_come_back_later(await caller.post())
        way.mend()
        assert await fetched(database_url, "select id from runs") == []
        assert (await caller.post()).status_code == 202


async def test_no_request_after_a_restart_meets_a_connection_from_before(
    make_stack: MakeStack, way: Proxy, url_by_way: str
) -> None:
    stack = make_stack(workers=0, database_url=url_by_way, database_pool=5)
    async with user(stack) as caller:
        for _ in range(3):
            way.reset()
            answers = await asyncio.gather(*(caller.post() for _ in range(20)))
            assert [answer.status_code for answer in answers] == [202] * 20


@pytest.mark.promise("P4")
async def test_a_request_whose_answer_postgres_owes_is_answered_in_time_and_its_retry_finds_one_run(
    make_stack: MakeStack, database_url: str, way: Proxy, url_by_way: str
) -> None:
    stack = make_stack(workers=0, database_url=url_by_way, database_timeout=1)
    async with user(stack) as caller:
        headers = {"Idempotency-Key": "order-933"}
        await caller.post()
        way.stall()
        began = time.monotonic()
        for answer in await asyncio.gather(*(caller.post(headers=headers) for _ in range(3))):
            assert_come_back_later(answer)
        assert time.monotonic() - began < 10
        way.mend()
        again = await asyncio.gather(*(caller.post(headers=headers) for _ in range(3)))
        assert {answer.status_code for answer in again} == {202}
        assert len({answer.json()["id"] for answer in again}) == 1
        assert len(await fetched(database_url, "select id from runs where idempotency_key is not null")) == 1


async def test_a_request_that_a_process_which_ends_can_wait_for_no_longer_is_told_to_come_back(
    make_stack: MakeStack, database_url: str, way: Proxy, url_by_way: str
) -> None:
    stack = make_stack(workers=0, database_url=url_by_way, shutdown_grace=1)
    api = stack.apis[0]
    async with user(stack) as caller:
        await caller.post()
        way.stall()
        asked = asyncio.create_task(caller.post())
        await asyncio.sleep(0.5)
        api.terminate()
        assert_come_back_later(await asked)
    assert "Traceback" not in api.output()


@pytest.mark.promise("P4")
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "order-933"}])
async def test_a_request_whose_connection_breaks_while_its_run_is_written_is_accepted_once(
    make_stack: MakeStack, database_url: str, way: Proxy, url_by_way: str, headers: dict[str, str]
) -> None:
    stack = make_stack(workers=0, database_url=url_by_way)
    waiting = "select 1 from pg_stat_activity where query like '%INSERT INTO runs%' and wait_event_type = 'Lock'"
    async with user(stack) as caller:
        async with locked(database_url, "runs", "SHARE"):
            asked = asyncio.create_task(caller.post(headers=headers))
            for writers in (1, 2):

                async def wait_for(writers: int = writers) -> bool:
                    return len(await fetched(database_url, waiting)) == writers

                await until(wait_for, "the run is about to be written")
                if writers == 1:
                    way.reset()
        answer = await asked
        assert (answer.status_code, "idempotency-replayed" in answer.headers) == (202, False)
        assert [row["id"] for row in await fetched(database_url, "select id from runs")] == [answer.json()["id"]]


# Runs under way


@pytest.mark.promise("P1", "P2")
@pytest.mark.parametrize("fault", ["cut", "stall"])
async def test_streams_go_on_while_postgres_is_away_and_the_worker_holds_the_end_until_it_is_back(
    make_stack: MakeStack, database_url: str, way: Proxy, url_by_way: str, fault: str
) -> None:
    """Longer than the leases last: afterwards each worker looks dead to the others until it has renewed its own."""
    stack = make_stack(workers=2, database_url=url_by_way, database_timeout=2)
    async with user(stack) as caller:
        run_ids = [await caller.create("unicode:800:100") for _ in range(12)]
        short = await caller.create("unicode:200:100")

        async def all_taken_up() -> bool:
            return all([(await caller.get(run_id))["status"] == "running" for run_id in [*run_ids, short]])

        await until(all_taken_up, "a claim whose answer is lost would make another attempt")
        async with reading(stack, caller, run_ids[0]) as viewer:
            await viewer.until(lambda viewer: viewer.position > 100)
            getattr(way, fault)()
            away = asyncio.create_task(asyncio.sleep(2 * LEASE))
            held = viewer.position
            await viewer.until(lambda viewer: viewer.position > held + 500)
            assert not away.done(), "the stream went on meanwhile"
            await away
            way.mend()
        assert (viewer.attempt, viewer.text) == (1, unicode_text(800))
        for run_id in [*run_ids, short]:
            run = await caller.ended(run_id)
            assert (run["status"], run["attempt"]) == ("completed", 1)
        await assert_told_the_same_after_the_end(stack, caller, viewer)


@pytest.mark.promise("P1", "P2")
async def test_postgres_is_killed_and_started_again_under_load(make_stack: MakeStack, server_directory: Path) -> None:
    with Postgres(server_directory / "postgres") as postgres:
        outside_the_loop(lambda: upgrade(postgres.url))
        stack = make_stack(workers=2, database_url=postgres.url)
        async with user(stack) as caller:
            run_ids = [await caller.create("unicode:400:100") for _ in range(10)]
            async with reading(stack, caller, run_ids[0]) as viewer:
                await viewer.until(lambda viewer: viewer.position > 100)
                await asyncio.to_thread(postgres.kill)
                assert_come_back_later(await caller.post())
                await asyncio.to_thread(postgres.start)

                async def accepted() -> bool:
                    answer = await caller.post("sim:5")
                    if answer.status_code == 202:
                        run_ids.append(answer.json()["id"])
                    return answer.status_code == 202

                await until(accepted, "it accepts runs again")
            assert (viewer.attempt, viewer.text) == (1, unicode_text(400))
            for run_id in run_ids:
                assert (await caller.ended(run_id))["status"] == "completed"
            assert (await rows(stack, "select count(*) from runs"))[0][0] == len(run_ids)


@pytest.mark.promise("P1")
async def test_a_postgres_that_answers_late_delays_and_loses_nothing(make_stack: MakeStack, database_url: str) -> None:
    """No statement about runs is done for longer than the leases last."""
    stack = make_stack(workers=2, database_url=database_url)
    async with user(stack) as caller:
        run_id = await caller.create("unicode:600:100")
        async with reading(stack, caller, run_id) as viewer:
            await viewer.until(lambda viewer: viewer.position > 100)
            async with locked(database_url, "runs", "ACCESS EXCLUSIVE"):
                asked = asyncio.create_task(caller.create("sim:5"))
                await asyncio.sleep(2 * LEASE)
            accepted = await asked
        assert (viewer.attempt, viewer.text) == (1, unicode_text(600))
        assert (await caller.ended(accepted))["output"]["text"] == words(5)


@pytest.mark.promise("P3", "P5")
async def test_a_worker_that_postgres_lost_sight_of_adds_nothing_to_the_run_that_another_took_over(
    make_stack: MakeStack, database_url: str, way: Proxy, url_by_way: str
) -> None:
    stack = make_stack(workers=0, database_url=database_url)
    with Proxy.to(database_url) as other_way:
        ways = {
            await asyncio.to_thread(
                stack.start_worker, database_url=each.through(database_url), database_timeout=1
            ): each
            for each in (way, other_way)
        }
        async with user(stack) as caller:
            run_id = await caller.create("unicode:300:60")
            async with reading(stack, caller, run_id) as viewer:
                await viewer.until(lambda viewer: viewer.position > 100)
                lost = await worker_of(stack, run_id)
                ways[lost].cut()
                await viewer.until(lambda viewer: viewer.attempt == 2 and len(viewer.text) > 100)
                ways[lost].mend()
                await until(lambda: "attempt_fenced" in lost.output(), "the lost worker gives up")
            assert viewer.restarts == [{"attempt": 2, "reason": "worker_lost"}]
            assert viewer.text == unicode_text(300)
            await assert_told_the_same_after_the_end(stack, caller, viewer)


_REFUSE = "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not this one'; end $$"


@pytest.mark.promise("P1")
async def test_a_run_that_postgres_takes_no_change_of_keeps_no_other_from_being_taken_up(make_stack: MakeStack) -> None:
    stack = make_stack()
    async with user(stack) as caller:
        run_ids = [await caller.create("unicode:100:50") for _ in range(3)]
        for run_id in run_ids:
            await until_status(stack, run_id, "running")
        await rows(stack, _REFUSE)
        when = f"for each row when (old.id = '{run_ids[0]}') execute function refuse()"
        await rows(stack, f"create trigger refuse before update on runs {when}")
        stack.kill(stack.workers[0])
        worker = await asyncio.to_thread(stack.start_worker)
        for run_id in run_ids[1:]:
            assert (await caller.ended(run_id))["status"] == "completed"
        assert worker.alive
        assert "run_not_taken_up" in worker.output()
        await rows(stack, "drop trigger refuse on runs")
        assert (await caller.ended(run_ids[0]))["status"] == "completed"
