"""With a key in the environment, Postgres has nothing of what was asked and answered in plain text."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from base64 import b64encode
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from tests import forked

from caller import DEADLINE, Caller, text_of, words
from plain_text import found
from receiver import receiving
from reliability import rows
from runstream.crash_points import Point
from runstream.domain.principal import Scope
from stack import Stack

FIRST, SECOND = (b64encode(os.urandom(32)).decode() for _ in range(2))
PROMPT, METADATA = f"prompt-{uuid4().hex}", f"metadata-{uuid4().hex}"
OUTPUT, REASONING, ARGUMENTS = words(30), "".join(f"r{i} " for i in range(20)), json.dumps({"text": words(40)})[1:-1]
TEXT, COMMENT = f"text-{uuid4().hex}", f"comment-{uuid4().hex}"
MORE_THAN_A_BATCH = 25
REFUSED = "simulated status 400"


@pytest.fixture(scope="module")
def stack(make_shared_stack: Callable[..., Stack]) -> Stack:
    return make_shared_stack(encryption_keys=json.dumps([FIRST, SECOND]), webhook_private="true", cache_min_tokens="5")


async def command(stack: Stack, *arguments: str, **environment: str) -> CompletedProcess[str]:
    given = {**stack.environment, **{f"RUNSTREAM_{name.upper()}": value for name, value in environment.items()}}
    return await asyncio.to_thread(
        forked.run, *arguments, directory=stack.directory, environment=given, seconds=DEADLINE
    )


async def plain(stack: Stack, *texts: str) -> set[tuple[str, str, str]]:
    database = await asyncpg.connect(stack.database_url, timeout=DEADLINE)
    try:
        return await found(database, texts)
    finally:
        await database.close()


async def asked(caller: Caller) -> dict[str, dict[str, Any]]:
    """Runs that came to all kinds of ends, by their models."""
    fields = {"prompt": PROMPT, "metadata": {"note": METADATA}}
    models = ("reasoning:20:30", "tools:40:3", "status:400")
    return {model: await caller.ended(await caller.create(model, **fields)) for model in models}


async def test_nothing_of_content_is_plain_in_the_database_and_all_of_it_is_answered(stack: Stack) -> None:
    async with (
        receiving() as receiver,
        Caller.server(stack, f"tenant-{uuid4().hex}", scopes=Scope) as caller,
        asyncio.timeout(DEADLINE),
    ):
        hook = (await caller.http.post("/v1/webhooks", json={"url": receiver.url, "include_output": True})).json()
        runs = await asked(caller)
        edited = {"event": "edited", "text": TEXT, "comment": COMMENT}
        feedback = f"/v1/runs/{runs['tools:40:3']['id']}/feedback"
        (await caller.http.post(feedback, json=edited)).raise_for_status()
        told = [each.verified_by(hook["secret"])["data"] for each in await receiver.until(len(runs))]
        assert (
            await plain(
                stack, PROMPT, METADATA, OUTPUT, REASONING, "w7 w8", "r7 r8", REFUSED, TEXT, COMMENT, hook["secret"]
            )
            == set()
        )

        assert {run["metadata"]["note"] for run in runs.values()} == {METADATA}
        assert runs["reasoning:20:30"]["output"] == {"text": OUTPUT, "reasoning": REASONING}
        called = runs["tools:40:3"]["output"]["tool_calls"]
        assert [json.loads(call["function"]["arguments"]) for call in called] == [{"text": words(40)}] * 2
        assert REFUSED in runs["status:400"]["error"]["message"]
        assert sorted(each["id"] for each in told) == sorted(run["id"] for run in runs.values())
        for each in told:
            run = next(run for run in runs.values() if run["id"] == each["id"])
            assert each == {name: run[name] for name in each}

        kept = (await caller.http.get(feedback)).json()
        assert (kept["text"], kept["comment"]) == (TEXT, COMMENT)
        for run in runs.values():
            assert {**await caller.get(run["id"]), "feedback": None} == run
            assert text_of(await caller.events(run["id"])) == (run["output"] or {"text": ""})["text"]
        listed = (await caller.http.get("/v1/runs")).json()["data"]
        assert [run["metadata"]["note"] for run in listed] == [METADATA] * len(runs)
        shown = await command(stack, "runs", "show", runs["reasoning:20:30"]["id"], "--content")
        assert PROMPT in shown.stdout
        assert "w7 w8" in shown.stdout


@pytest.mark.promise("P4")
async def test_a_key_used_again_and_an_answer_given_again_are_found_though_they_are_encrypted(stack: Stack) -> None:
    async with Caller.of(stack, f"tenant-{uuid4().hex}", "ada") as caller, asyncio.timeout(DEADLINE):
        key = {"Idempotency-Key": "order-933"}
        run_id = await caller.create("sim:30", headers=key, cache="read")
        assert await caller.create("sim:30", headers=key, cache="read") == run_id
        assert (await caller.post("sim:30", prompt="Other", headers=key)).status_code == 409
        first = await caller.ended(run_id)
        again = await caller.ended(await caller.create("sim:30", cache="read"))
        other = await caller.ended(await caller.create("sim:30", cache="read", prompt="Other"))
        assert [run["cached"] for run in (first, again, other)] == [False, True, False]
        assert again["output"] == first["output"]


async def test_a_key_that_is_needed_and_not_given_is_named_at_the_start(stack: Stack) -> None:
    async with Caller.of(stack, f"tenant-{uuid4().hex}", "ada") as caller, asyncio.timeout(DEADLINE):
        await caller.ended(await caller.create())
    ((master,),) = await rows(stack, "select distinct master from data_keys")
    for name in ("api", "worker"):
        refused = await command(stack, name, encryption_keys=json.dumps([SECOND]))
        assert (refused.returncode, refused.stdout.count("\n")) == (1, 0), refused
        assert refused.stderr.startswith(f"runstream: RUNSTREAM_ENCRYPTION_KEYS lacks {master}")
        assert FIRST not in refused.stderr
        assert SECOND not in refused.stderr


async def test_a_rotation_that_is_killed_in_the_middle_goes_on_and_running_processes_read_all_of_it(
    stack: Stack,
) -> None:
    async with Caller.of(stack, f"tenant-{uuid4().hex}", "ada") as caller, asyncio.timeout(DEADLINE):
        made = await asyncio.gather(*(caller.create("sim:3", prompt=PROMPT) for _ in range(MORE_THAN_A_BATCH)))
        runs = [await caller.ended(run_id) for run_id in made]
        keys = {"encryption_keys": json.dumps([SECOND, FIRST])}
        await rows(stack, "update data_keys set complete_at = now()")  # as after a rotation before this one
        killed = await command(stack, "encryption", "rotate", "--content", crash_at=Point.RESEAL_WRITTEN, **keys)
        assert killed.returncode == -signal.SIGKILL, killed
        assert await data_keys_of_runs(stack, caller) == {"older", "newest"}
        runs += [await caller.ended(await caller.create("sim:3", prompt=PROMPT))]
        again = await command(stack, "encryption", "rotate", "--content", **keys)
        assert again.returncode == 0, again.stderr
        assert "\n0 tenants have a new data key." in again.stdout, "it goes on with those that there are"
        assert await data_keys_of_runs(stack, caller) == {"newest"}
        for run in runs:
            assert await caller.get(run["id"]) == run
    async with Caller.of(stack, f"tenant-{uuid4().hex}", "ada") as caller, asyncio.timeout(DEADLINE):
        await caller.ended(await caller.create("sim:3"))


async def data_keys_of_runs(stack: Stack, caller: Caller) -> set[str]:
    """Which data keys encrypt what the tenant's runs were asked and answered."""
    query = """
        select case when split_part(sealed, ':', 3) = (select max(id) from data_keys where tenant = $1)
            then 'newest' else 'older' end
        from runs, unnest(array[input #>> '{}', transcript #>> '{}', output]) as sealed where tenant = $1
    """
    return {row[0] for row in await rows(stack, query, caller.tenant)}


async def test_content_that_cannot_be_opened_is_answered_503_and_never_as_it_is(stack: Stack) -> None:
    async with Caller.of(stack, f"tenant-{uuid4().hex}", "ada") as caller, asyncio.timeout(DEADLINE):
        changed, whole = [(await caller.ended(await caller.create()))["id"] for _ in range(2)]
        for column in ("transcript", "output"):
            taken = f"update runs set {column} = (select {column} from runs where id = $2) where id = $1"
            await rows(stack, taken, changed, whole)
        for path in (f"/v1/runs/{changed}", f"/v1/runs/{changed}/events"):
            answer = await caller.http.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "content_unreadable")
            assert "sealed" not in answer.text
        await caller.get(whole)
        waiting = "status = 'queued', finished_at = null, available_at = now() + interval '1 hour'"
        await rows(stack, f"update runs set {waiting} where id = $1", changed)
        assert (await caller.cancel(changed))["status"] == "cancelled"
