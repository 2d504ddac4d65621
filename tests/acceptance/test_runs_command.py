"""`runstream runs`: what an operator sees of runs afterwards, and does about them."""

from __future__ import annotations

import asyncio
import getpass
import json
import re
import time
from collections.abc import Awaitable, Callable
from subprocess import CompletedProcess
from uuid import uuid4

import asyncpg
import pytest

from caller import DEADLINE, Caller, text_of, words
from runstream.domain.ids import new_id
from runstream.embedded.port import free_port
from stack import Command, Stack

SECRET = "the-prompt-that-nobody-may-read"
REFUSED = "provider_refused"
REFUSAL = "only a failed or cancelled one can be tried again."

Done = CompletedProcess[str]


@pytest.fixture
def runs(command: Command) -> Callable[..., Awaitable[Done]]:
    """`await runs("list")`, beside the test's loop."""

    async def run(*arguments: str, **changed: str) -> Done:
        return await asyncio.to_thread(command, "runs", *arguments, **changed)

    return run


async def failed_run(caller: Caller) -> str:
    run_id = await caller.create("status:400")
    await caller.ended(run_id)
    return run_id


async def attempts_of(caller: Caller, run_id: str) -> list[str]:
    answer = await caller.http.get(f"/v1/runs/{run_id}/attempts")
    return [attempt["outcome"] for attempt in answer.raise_for_status().json()["data"]]


async def make_older(stack: Stack, run_id: str, seconds: float) -> str:
    """The run as if it had been asked for that long ago; its new id, which says so."""
    older = new_id("run", time.time() - seconds)
    connection = await asyncpg.connect(stack.database_url, timeout=DEADLINE)
    try:
        await connection.execute("delete from attempts where run_id = $1", run_id)
        await connection.execute(
            "update runs set id = $2, created_at = created_at - make_interval(secs => $3) where id = $1",
            *(run_id, older, seconds),
        )
    finally:
        await connection.close()
    return older


# list


async def test_list_shows_the_newest_runs_of_a_tenant_and_why_they_failed(runs, caller):
    failed, completed = await failed_run(caller), await caller.create("sim:1")
    await caller.ended(completed)
    done = await runs("list", "--tenant", caller.tenant)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.split()[:3] == [completed, "completed", "1/3"]
    assert second.split()[:3] == [failed, "failed", "1/3"]
    assert caller.tenant in second
    assert f"{REFUSED}: " in second


async def test_list_takes_a_status_a_time_and_a_limit(runs, caller, stack):
    failed = [await failed_run(caller) for _ in range(3)]
    old = await make_older(stack, failed[0], 7200)
    await caller.ended(await caller.create("sim:1"))
    of_mine = ("list", "--tenant", caller.tenant)

    async def ids(*arguments: str) -> list[str]:
        return [line.split()[0] for line in (await runs(*of_mine, *arguments)).stdout.splitlines()]

    assert await ids("--status", "failed") == [failed[2], failed[1], old]
    assert await ids("--status", "failed", "--since", "1h") == [failed[2], failed[1]]
    assert await ids("--status", "failed", "--since", "1d", "--limit", "1") == [failed[2]]
    assert await ids("--status", "cancelled") == []


async def test_list_without_a_tenant_shows_everybodys(runs, caller, unworked):
    mine, others = await caller.create("sim:1"), await unworked.create()
    listed = (await runs("list", "--limit", "50", "--since", "5m")).stdout
    assert mine in listed
    assert others in listed


# show


async def test_show_tells_of_a_run_and_each_of_its_attempts_and_not_what_was_said(runs, caller, stack):
    run_id = await caller.create("flaky:1:3", prompt=f"{SECRET} {uuid4().hex}")
    await caller.ended(run_id)
    done = await runs("show", run_id)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    told = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines if not line.startswith("attempt "))
    assert (told["run"], told["tenant"], told["user"]) == (run_id, caller.tenant, "ada")
    assert (told["status"], told["attempts"]) == ("completed", "2 of 3")
    first, second = (line for line in lines if line.startswith("attempt "))
    assert first.startswith("attempt 1: retried")
    assert "provider_unavailable: " in first
    assert second.startswith("attempt 2: completed")
    assert re.search(r"\bwrk_\w+", second)
    assert " 3 tokens" in second
    assert SECRET not in done.stdout
    assert words(3) not in done.stdout


async def test_show_tells_what_was_said_where_it_is_asked_for(runs, caller):
    run_id = await caller.create("sim:3", prompt=f"{SECRET}\x9b31m")
    await caller.ended(run_id)
    done = await runs("show", run_id, "--content")
    assert SECRET in done.stdout
    assert words(3) in done.stdout
    assert "\x9b" not in done.stdout, "a prompt steers the operator's terminal"


async def test_show_tells_reasoning_and_tool_calls_where_there_are_some(runs, caller):
    for model, told in (("reasoning:2:1", "r0 r1 "), ("tools:1", "write_down")):
        run_id = await caller.create(model)
        await caller.ended(run_id)
        assert told in (await runs("show", run_id, "--content")).stdout
        assert told not in (await runs("show", run_id)).stdout


async def test_show_says_where_usage_is_a_guess(runs, caller):
    run_id = await caller.create("cut:4")
    run = await caller.ended(run_id)
    usage = f"about {run['usage']['input_tokens']} + {run['usage']['output_tokens']} tokens"
    assert (await runs("show", run_id)).stdout.count(usage) == 4


async def test_show_says_in_a_sentence_that_there_is_no_such_run(runs):
    unknown = new_id("run")
    done = await runs("show", unknown)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"runstream: There is no run '{unknown}'.\n"


# retry


async def test_retry_queues_each_named_run_again_and_says_what_it_could_not(runs, caller):
    failed, completed, unknown = await failed_run(caller), await caller.create("sim:1"), new_id("run")
    await caller.ended(completed)
    done = await runs("retry", failed, completed, unknown)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{failed}: Queued again after attempt 1 ({REFUSED}).",
        f"{completed}: The run is completed: {REFUSAL}",
        f"{unknown}: There is no such run.",
        "Queued again: 1 of 3.",
    ]
    await caller.ended(failed)
    assert await attempts_of(caller, failed) == ["failed", "failed"]
    assert (await caller.get(completed))["attempt"] == 1


async def test_a_run_that_is_tried_again_by_command_is_told_to_its_readers(runs, caller):
    run_id = await caller.create("flaky:3:6", prompt=uuid4().hex)
    await caller.ended(run_id)
    end = (await caller.events(run_id))[-1]
    assert (await runs("retry", run_id)).returncode == 0
    events = await caller.events(run_id, end.id)
    assert (events[0].type, events[0].data) == ("run.restarted", {"attempt": 4, "reason": "retry"})
    assert (events[-1].type, text_of(events)) == ("run.completed", words(6))


async def test_retry_of_all_that_failed_tries_each_of_that_time_and_tenant_once(runs, caller, unworked, stack):
    failed = [await failed_run(caller) for _ in range(3)]
    old = await make_older(stack, failed.pop(0), 7200)
    async with Caller.of(stack, f"{caller.tenant}-other", "ada") as other:
        others = await failed_run(other)
        kept = await caller.create("hang:1")
        await caller.cancel(kept)
        done = await runs("retry", "--failed", "--since", "1h", "--tenant", caller.tenant)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            *(f"{run_id}: Queued again after attempt 1 ({REFUSED})." for run_id in failed[::-1]),
            "Queued again: 2 of 2.",
        ]
        for run_id in failed:
            await caller.ended(run_id)
            assert await attempts_of(caller, run_id) == ["failed", "failed"], "each once, though it failed again"
        assert (await caller.get(old))["attempt"] == (await other.get(others))["attempt"] == 1
        assert (await caller.get(kept))["status"] == "cancelled"


async def test_retry_goes_through_more_failed_runs_than_it_reads_at_once(runs, caller):
    async with asyncio.timeout(DEADLINE):
        failed = await asyncio.gather(*(failed_run(caller) for _ in range(130)))
    done = await runs("retry", "--failed", "--since", "1h", "--tenant", caller.tenant)
    assert done.stdout.splitlines()[-1] == "Queued again: 130 of 130."
    for run_id in failed:
        assert (await caller.ended(run_id))["attempt"] == 2


@pytest.mark.parametrize(
    "arguments",
    [(), ("--failed",), ("run_1", "--failed", "--since", "1h")],
    ids=" ".join,
)
async def test_retry_of_no_certain_runs_is_refused_in_a_sentence(runs, arguments):
    done = await runs("retry", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "runstream: Name runs, or say --failed and since when: --failed --since 1h.\n"


@pytest.mark.parametrize("arguments", [("list",), ("retry", "--failed")], ids=" ".join)
async def test_a_time_that_is_none_is_refused_in_a_sentence(runs, arguments):
    done = await runs(*arguments, "--since", "yesterday")
    assert done.returncode == 1
    assert done.stderr == "runstream: A time is a number and s, m, h or d, such as 90m.\n"


@pytest.mark.promise("P1")
async def test_retry_works_without_redis_and_says_so(runs, caller):
    failed = [await failed_run(caller) for _ in range(2)]
    done = await runs("retry", *failed, redis_url=f"redis://127.0.0.1:{free_port()}/0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Redis does not answer, so it may take some seconds to begin.") == 2
    assert done.stderr == ""
    async with asyncio.timeout(DEADLINE):
        for run_id in failed:
            assert (await caller.ended(run_id))["attempt"] == 2


# cancel


async def test_cancel_stops_runs_wherever_they_are(runs, caller, unworked):
    running, queued, unknown = await caller.create("hang:2"), await unworked.create(), new_id("run")
    completed = await caller.create("sim:1")
    await caller.ended(completed)
    async for event in caller.follow(running):
        if event.type == "run.delta":
            break
    done = await runs("cancel", running, queued, completed, unknown)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{running}: Its worker is told to stop.",
        f"{queued}: It is cancelled.",
        f"{completed}: It has ended already (completed).",
        f"{unknown}: There is no such run.",
        "Ended or told to stop: 3 of 4.",
    ]
    assert (await caller.ended(running))["status"] == "cancelled"
    assert (await unworked.get(queued))["status"] == "cancelled"
    assert (await caller.get(completed))["status"] == "completed"


# What all of them say


@pytest.mark.parametrize("arguments", [("list",), ("retry", "--failed", "--since", "1h")], ids=" ".join)
async def test_a_database_that_is_down_is_one_sentence(runs, arguments):
    done = await runs(*arguments, database_url=f"postgresql://ada:s3cret@127.0.0.1:{free_port()}/runstream")
    assert done.returncode == 1
    assert done.stderr.startswith("runstream: The database cannot be used (")
    assert done.stderr.count("\n") == 1
    assert "s3cret" not in done.stderr


# audit


async def test_what_commands_do_and_show_is_in_the_audit_log(runs, caller, stack):
    run_id, waiting = await failed_run(caller), await caller.create("hang:0")
    await runs("list", "--tenant", caller.tenant)
    await runs("show", run_id)
    await runs("show", run_id, "--content")
    await runs("retry", run_id)
    await runs("cancel", waiting)
    connection = await asyncpg.connect(stack.database_url, timeout=DEADLINE)
    try:
        query = "select * from audit where tenant = $1 and target_type = 'run' order by id"
        entries = await connection.fetch(query, caller.tenant)
    finally:
        await connection.close()
    assert [(each["action"], each["target_id"]) for each in entries] == [
        ("run.listed", None),
        ("run.read", run_id),
        ("run.read", run_id),
        ("run.retried", run_id),
        ("run.cancelled", waiting),
    ]
    assert [json.loads(each["details"]).get("content") for each in entries] == [None, False, True, None, None]
    assert {each["principal_kind"] for each in entries} == {"command"}
    assert {each["principal_id"] for each in entries} == {getpass.getuser()}
    assert len({each["request_id"] for each in entries}) == len(entries)
