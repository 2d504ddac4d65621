"""A run that is deleted stays so: whoever dies in the middle of it, and whoever still writes the run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import redis

from caller import Caller
from reliability import SHORT_LEASES, logged, rows, stopped, until_status, user, worker_of
from runstream.crash_points import Point
from runstream.domain.principal import Scope
from stack import Api, Process, Stack
from viewer import Viewer
from waiting import until

ENDED = ["run.restarted", "run.cancelled"]
"""All that is left of a deleted run: a reader that was not told of its end is told to forget it."""


@pytest.fixture(scope="module")
def stack(make_shared_stack: Callable[..., Stack]) -> Stack:
    return make_shared_stack(**SHORT_LEASES)


async def delete(caller: Caller, run_id: str) -> int:
    return (await caller.http.delete(f"/v1/runs/{run_id}")).status_code


@asynccontextmanager
async def saying(stack: Stack, caller: Caller, model: str = "unicode:5000:100") -> AsyncIterator[str]:
    """A run in the middle of what it says."""
    run_id = await caller.create(model)
    await until(lambda: len(logged(stack, run_id)) > 2, "it says something")
    yield run_id


async def until_gone(stack: Stack, caller: Caller, run_id: str) -> None:
    """Until it is cleared away, as far as is known; then nothing of it is left, and nothing comes back."""

    async def cleared() -> bool:
        return bool(await rows(stack, "select from deletions where run_id = $1 and cleared_at is not null", run_id))

    await until(cleared, "it is deleted")
    await assert_gone(stack, caller, run_id)


async def assert_gone(stack: Stack, caller: Caller, run_id: str) -> None:
    assert (await caller.http.get(f"/v1/runs/{run_id}")).status_code == 404
    assert (await caller.http.get(f"/v1/runs/{run_id}/events")).status_code == 404
    for table, column in {"runs": "id", "attempts": "run_id", "webhook_deliveries": "run_id"}.items():
        assert not await rows(stack, f"select from {table} where {column} = $1", run_id), table
    assert [type_ for _, type_ in logged(stack, run_id)] in (ENDED, [])


@pytest.mark.promise("P6")
async def test_a_run_that_was_asked_to_be_deleted_is_stopped_and_gone_though_the_api_process_dies(
    stack: Stack,
) -> None:
    doomed = await asyncio.to_thread(stack.start_api, crash_at=Point.DELETE_ASKED)
    async with user(stack) as caller, saying(stack, caller) as run_id, Viewer(caller.key, run_id) as viewer:
        reading = asyncio.create_task(viewer.read(stack.url))
        await delete_in_vain(stack, caller, doomed, run_id)
        await reading
        assert viewer.end is not None, "its reader was told of the end"
        assert viewer.end[0] == "run.cancelled"
        await until_gone(stack, caller, run_id)
        assert await delete(caller, run_id) == 204
        query = "select count(*), sum(output_tokens) from ledger where run_id = $1"
        ((calls, tokens),) = await rows(stack, query, run_id)
        assert (calls, tokens > 0) == (1, True), "what was said is paid for"


async def test_what_redis_has_of_a_run_is_gone_though_the_api_process_dies_once_its_row_is(stack: Stack) -> None:
    doomed = await asyncio.to_thread(stack.start_api, crash_at=Point.DELETE_COMMITTED)
    async with user(stack) as caller:
        run_id = await caller.create("sim:200")
        await caller.ended(run_id)
        with stopped(stack.workers[0].pid):
            await delete_in_vain(stack, caller, doomed, run_id)
            assert not await rows(stack, "select from runs where id = $1", run_id)
            assert "run.delta" in [type_ for _, type_ in logged(stack, run_id)]
        await until_gone(stack, caller, run_id)


async def delete_in_vain(stack: Stack, caller: Caller, doomed: Api, run_id: str) -> None:
    async with caller.at(doomed.url) as unlucky:
        with pytest.raises(httpx.TransportError):
            await delete(unlucky, run_id)
    assert await asyncio.to_thread(doomed.wait) == -signal.SIGKILL
    stack.kill(doomed)


async def test_the_erasure_of_a_user_is_finished_by_another_worker_where_one_dies_in_the_middle(stack: Stack) -> None:
    (usual,) = stack.workers
    async with (
        Caller.of(stack, "acme", "eve") as eve,
        Caller.server(stack, "acme", scopes=list(Scope)) as server,
        saying(stack, eve) as going_on,
    ):
        ended = [await eve.create() for _ in range(3)]
        for run_id in ended:
            await eve.ended(run_id)
        with stopped(usual.pid):
            doomed = await asyncio.to_thread(stack.start_worker, crash_at=Point.DELETE_COMMITTED)
            erasure = (await server.http.delete("/v1/users/eve")).raise_for_status().json()
            assert await asyncio.to_thread(doomed.wait) == -signal.SIGKILL
            stack.kill(doomed)
            assert (await server.http.get(f"/v1/erasures/{erasure['id']}")).json()["status"] == "running"

        async def done() -> bool:
            told = (await server.http.get(f"/v1/erasures/{erasure['id']}")).json()
            return (told["status"], told["runs"]) == ("done", 4)

        await until(done, "the user is erased")
        for run_id in [*ended, going_on]:
            assert not await rows(stack, "select from runs where id = $1", run_id)
            assert [type_ for _, type_ in logged(stack, run_id)] in (ENDED, [])


@pytest.mark.promise("P3")
async def test_a_worker_that_stood_still_as_it_wrote_the_end_brings_nothing_back(stack: Stack) -> None:
    """Its lease holds: where the log is gone, it would put back what it said."""
    (usual,) = stack.workers
    async with user(stack) as caller:
        with stopped(usual.pid):
            armed = {"crash_at": f"{Point.SETTLE_WRITTEN}:1:stop", "lease": "60", "lease_interval": "30"}
            late = await asyncio.to_thread(stack.start_worker, **armed)
            run_id = await caller.create("sim:200")
            await until_status(stack, run_id, "completed")
            assert len(logged(stack, run_id)) > 1
            assert await delete(caller, run_id) == 204
            await assert_gone(stack, caller, run_id)
            late.resume()
            await until(lambda: not taken(stack, run_id), "its worker is done with it")
            await assert_gone(stack, caller, run_id)
        stack.kill(late)


def taken(stack: Stack, run_id: str) -> list[str]:
    """The run's jobs, as long as any worker is not done with them."""
    with redis.Redis.from_url(stack.redis_url, decode_responses=True) as client:
        return [name for name in client.scan_iter("arq:job:*", count=1000) if run_id in name]


@pytest.mark.promise("P3")
async def test_a_worker_that_stood_still_in_the_middle_of_a_run_brings_nothing_back(stack: Stack) -> None:
    async with user(stack) as caller, saying(stack, caller) as run_id:
        zombie = await worker_of(stack, run_id)
        with stopped(zombie.pid):
            assert await delete(caller, run_id) == 202, "nobody has stopped yet"
            other = await asyncio.to_thread(stack.start_worker)
            await until_gone(stack, caller, run_id)
        await until(lambda: run_id in zombie_says(zombie), "it has found out")
        await assert_gone(stack, caller, run_id)
        stack.kill(other)


def zombie_says(process: Process) -> str:
    return "".join(line for line in process.output().splitlines() if "attempt_fenced" in line)
