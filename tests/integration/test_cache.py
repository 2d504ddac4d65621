"""A run that asks for what another one of its tenant asked for is given that answer, where both want that."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
import redis
from redis.asyncio import Redis as AsyncRedis

from caller import Caller, own_model, words
from in_process import answers_of
from reliability import reading, rows
from runstream.domain.prompt import Prompt
from runstream.domain.run import Caching, Claim, Generation, Priority
from runstream.domain.usage import Usage
from runstream.embedded.port import free_port
from runstream.gateway.circuits import Circuits
from runstream.gateway.generate import Gateway
from runstream.gateway.pricing import Prices
from runstream.gateway.routes import Routes, TargetConfig
from runstream.gateway.turn import Lines
from runstream.providers.base import Timeouts
from runstream.redis_script import Scripts
from runstream.runs.attempt import Attempt
from runstream.runs.intake import Intake
from runstream.runs.note import Note
from runstream.storage.database import connect
from runstream.stream.log import TokenLog
from runstream.stream.writer import WriteLoop
from stack import Stack

ROUTES = Routes({"m": [TargetConfig("p/m")]}, ["p"])
LONG = 60
"""Tokens of an answer that is long enough to be kept."""
NOTHING = {"input_tokens": 0, "output_tokens": 0, "cached_tokens": 0, "estimated": False}


async def asked(caller: Caller, model: str, cache: str | None = "read", **fields: Any) -> dict[str, Any]:
    """A run that has ended."""
    given = fields if cache is None else {"cache": cache, **fields}
    return await caller.ended(await caller.create(model, **given))


def calls(stack: Stack, model: str) -> int:
    return stack.provider_stats()["calls"].get(model, 0)


def keys(stack: Stack) -> dict[str, str]:
    """Each kept answer's key in Redis, and the run that it is of."""
    with redis.Redis.from_url(stack.redis_url, decode_responses=True) as client:
        return {key: client.get(key) for key in client.scan_iter("runstream:answer:*", count=1000)}


def key_of(stack: Stack, run_id: str) -> str:
    (key,) = [key for key, kept in keys(stack).items() if kept == run_id]
    return key


async def test_the_same_request_is_given_the_answer_that_is_there_and_costs_nothing(stack, caller):
    model = own_model(LONG)
    first = await asked(caller, model)
    again = await asked(caller, model)
    assert calls(stack, model) == 1
    assert (first["cached"], again["cached"]) == (False, True)
    assert again["id"] != first["id"]
    for same in ("output", "finish_reason", "provider", "provider_model"):
        assert again[same] == first[same]
    assert (again["usage"], again["cost"]) == (NOTHING, "0")
    started, delta, completed = await caller.events(again["id"])
    assert (started.type, delta.data, completed.type) == ("run.started", {"text": words(LONG)}, "run.completed")
    assert (completed.data["cached"], completed.data["usage"]) == (True, NOTHING)
    assert "cached" not in (await caller.events(first["id"]))[-1].data


async def test_an_attempt_that_is_given_an_answer_is_known_to_have_bought_nothing_if_its_worker_is_lost(stack, caller):
    model = own_model(LONG)
    runs = [await asked(caller, model) for _ in range(2)]
    shared = [await rows(stack, "select shared from attempts where run_id = $1", run["id"]) for run in runs]
    assert [attempt["shared"] for (attempt,) in shared] == [False, True]


@pytest.mark.parametrize("model", ["tools:20:60", "reasoning:30:60", "unicode:60"])
async def test_an_answer_of_any_kind_is_given_again_whole_and_in_few_pieces(caller, model):
    first, again = await asked(caller, model), await asked(caller, model)
    assert again["cached"]
    assert (again["output"], again["finish_reason"]) == (first["output"], first["finish_reason"])
    events = [await caller.events(run["id"]) for run in (first, again)]
    said = [[(event.type, event.data) for event in each[1:-1]] for each in events]
    assert said[0] == said[1]
    assert len(said[1]) <= 10


async def test_a_run_that_is_followed_while_it_is_given_an_answer_has_it_in_large_pieces(stack, caller):
    model = own_model(LONG)
    await asked(caller, model)
    async with reading(stack, caller, await caller.create(model, cache="read")) as viewer:
        pass
    assert (viewer.text, viewer.end[1]["cached"]) == (words(LONG), True)


async def test_a_chat_neither_takes_nor_leaves_an_answer_unless_it_says_so(stack, caller):
    model = own_model(LONG)
    for cache in (None, "off", "read", "off", None):
        assert not (await asked(caller, model, cache))["cached"]
    assert calls(stack, model) == 5
    assert (await asked(caller, model))["cached"]


async def test_to_refresh_is_to_ask_anew_and_to_leave_that_answer(stack, caller):
    model = own_model(LONG)
    first = await asked(caller, model)
    fresh = await asked(caller, model, "refresh")
    assert (fresh["cached"], calls(stack, model)) == (False, 2)
    assert fresh["id"] in keys(stack).values()
    assert first["id"] not in keys(stack).values()
    assert (await asked(caller, model))["cached"]


async def test_answers_that_are_short_or_cut_are_not_kept(stack, caller):
    short, cut = own_model(50), own_model(LONG)
    limited = {"messages": [{"role": "user", "content": "Count"}], "max_output_tokens": 55}
    for _ in range(2):
        assert not (await asked(caller, short))["cached"]
        run = await asked(caller, cut, input=limited)
        assert (run["cached"], run["finish_reason"]) == (False, "length")


async def test_the_answer_of_a_run_that_was_cancelled_is_not_kept(stack, caller):
    run_id = await caller.create(f"hang:{LONG}", cache="read")
    async with reading(stack, caller, run_id) as viewer:
        await viewer.until(lambda viewer: viewer.text == words(LONG))
        assert (await caller.cancel(run_id))["status"] == "cancelled"
    assert run_id not in keys(stack).values()


async def test_an_answer_is_kept_for_an_hour_by_redis_and_by_postgres(stack, caller):
    model = own_model(LONG)
    first = await asked(caller, model)
    with redis.Redis.from_url(stack.redis_url) as client:
        assert 3_500_000 < client.pttl(key_of(stack, first["id"])) <= 3_600_000
    await rows(stack, "update runs set finished_at = now() - interval '61 minutes' where id = $1", first["id"])
    assert not (await asked(caller, model))["cached"]


async def test_redis_may_lose_answers_and_is_given_them_again(stack, caller):
    model = own_model(LONG)
    first = await asked(caller, model)
    with redis.Redis.from_url(stack.redis_url) as client:
        client.delete(key_of(stack, first["id"]))
    assert not (await asked(caller, model))["cached"]
    assert (await asked(caller, model))["cached"]
    assert calls(stack, model) == 2


@pytest.mark.promise("P7")
async def test_an_answer_is_given_to_nobody_of_another_tenant_though_redis_points_to_it(stack, caller):
    model = own_model(LONG)
    first = await asked(caller, model)
    async with Caller.of(stack, f"tenant-{uuid4().hex}", "ada") as stranger:
        own = await asked(stranger, model)
        assert not own["cached"]
        with redis.Redis.from_url(stack.redis_url) as client:
            client.set(key_of(stack, own["id"]), first["id"])
        assert not (await asked(stranger, model))["cached"]
    async with Caller.of(stack, caller.tenant, "bob") as colleague:
        assert (await asked(colleague, model))["cached"]
    assert calls(stack, model) == 3


async def test_a_redis_or_a_postgres_that_is_away_keeps_no_answer_and_fails_no_run(redis_url, database_url):
    nowhere = free_port()
    gateway = Gateway(
        ROUTES, {}, Timeouts(), Prices({"p": "http://localhost"}, {}), Circuits(), Lines({}, wait=0, reserved_output=0)
    )
    claim = Claim("run_1", "acme", 1, 1, "q", Priority.DEFAULT, "chat", "1", "m", {}, Caching.READ, 0.0, None, None)
    engine = connect(f"postgresql://127.0.0.1:{nowhere}/no", pool_size=1, timeout=1)
    async with AsyncRedis.from_url(f"redis://127.0.0.1:{nowhere}") as away, AsyncRedis.from_url(redis_url) as here:
        for client in (away, here):
            scripts = Scripts(client, timeout=1)
            token_log = TokenLog(client, scripts, ttl=60, ended_ttl=60)
            loop = WriteLoop(token_log)
            answers = answers_of(scripts, engine, gateway, token_log, loop)
            attempt = Attempt(
                claim, lambda fenced, loop=loop: loop.open("run_1", 1, fenced), Note(None, "", claim), lambda: True
            )
            attempt.finish_reason = "stop"
            await answers.keep(attempt, Generation(usage=Usage(1, 51)))
            assert not await answers.give(attempt, Prompt(()), Intake(attempt, 100))
            assert (attempt.given, attempt.writer.transcript.end) == (None, 0)
    await engine.dispose()


OTHERS = {
    "prompt": {"prompt": "Count again"},
    "temperature": {"input": {"messages": [{"role": "user", "content": "Count"}], "temperature": 0.5}},
    "more": {"input": {"messages": [{"role": "user", "content": "Count"}, {"role": "user", "content": "Count"}]}},
}


async def test_an_answer_is_given_to_no_other_request_though_redis_points_to_it(stack, caller):
    model = own_model(LONG)
    first = await asked(caller, model)
    others = await asyncio.gather(
        asked(caller, own_model(LONG)), *(asked(caller, model, **fields) for fields in OTHERS.values())
    )
    assert not any(other["cached"] for other in others)
    with redis.Redis.from_url(stack.redis_url) as client:
        for other in others:
            client.set(key_of(stack, other["id"]), first["id"])
    again = await asyncio.gather(
        asked(caller, others[0]["model"]), *(asked(caller, model, **fields) for fields in OTHERS.values())
    )
    assert not any(other["cached"] for other in again)


async def test_an_answer_whose_run_is_gone_is_asked_for_anew(stack, caller):
    model = own_model(LONG)
    first = await asked(caller, model)
    await rows(stack, "delete from runs where id = $1", first["id"])
    assert not (await asked(caller, model))["cached"]


async def test_a_run_that_was_given_its_answer_is_no_answer_of_its_own(stack, caller):
    """An answer is as old as the call that it took, however often it is given."""
    model = own_model(LONG)
    first = await asked(caller, model)
    again = await asked(caller, model)
    assert again["cached"]
    assert first["id"] in keys(stack).values()
    assert again["id"] not in keys(stack).values()


@pytest.mark.parametrize("cache", ["always", "READ", 1, True])
async def test_what_is_no_way_to_use_the_cache_is_refused_by_name(caller, cache):
    refused = await caller.post(cache=cache)
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "cache"
