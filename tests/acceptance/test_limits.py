"""What may be asked for and spent is bounded: exactly, whoever asks at the same time and whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import httpx
import pytest

from caller import Caller, own_model
from reliability import MakeStack, flush, rows, until, user
from stack import PROVIDER, Stack

PROMPT = "Count"
RESERVED = -(-len("user" + PROMPT) // 4) + 100
"""Tokens that a run of these tests takes: its input, and its `max_output_tokens`."""
REQUESTS = 500
HELD = 50


def limited(**scopes: dict[str, Any]) -> str:
    return json.dumps(scopes)


async def ask(caller: Caller, model: str = "sim:5", **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": PROMPT}]
    asked = {"messages": messages, "max_output_tokens": 100, **fields}
    return await caller.http.post("/v1/runs", json={"feature": "chat", "model": model, "input": asked})


async def limit(caller: Caller, name: str) -> dict[str, Any]:
    """One of the limits that hold for the caller."""
    told = (await caller.http.get("/v1/limits")).raise_for_status().json()["data"]
    (found,) = [each for each in told if each["name"] == name]
    return found


async def spent(stack: Stack) -> int:
    query = "select coalesce(sum(input_tokens + output_tokens), 0) from ledger"
    return (await rows(stack, query))[0][0]


async def until_nothing_runs(stack: Stack) -> None:
    async def ended() -> bool:
        return (await rows(stack, "select count(*) from runs where finished_at is null"))[0][0] == 0

    await until(ended, "all runs have ended")


async def until_settled(stack: Stack, caller: Caller, name: str) -> dict[str, Any]:
    async def settled() -> bool:
        told = await limit(caller, name)
        return (told["used"], told["reserved"]) == (await spent(stack), 0)

    await until(settled, "what is counted is what was spent")
    return await limit(caller, name)


@pytest.mark.promise("P8")
async def test_many_requests_at_once_pass_no_limit_together_whatever_dies_and_is_emptied_meanwhile(
    make_stack: MakeStack,
) -> None:
    most = HELD * RESERVED
    limits = limited(tenant={"tokens_per_day": most})
    stack = make_stack(apis=2, workers=2, limits=limits, lease="1.5", lease_interval="0.3")
    answers: Counter[int] = Counter()
    async with user(stack) as caller, caller.at(stack.urls[1]) as elsewhere:

        async def one(number: int) -> None:
            answer = await ask((caller, elsewhere)[number % 2], "hang:3")
            answers[answer.status_code] += 1
            if answer.status_code == 429:
                assert answer.json()["error"]["code"] == "budget_exceeded"

        async def disturb() -> None:
            await until(lambda: answers[202] >= HELD / 3, "some are accepted")
            flush(stack)
            stack.kill(stack.workers[0])

        await asyncio.gather(disturb(), *map(one, range(REQUESTS)))
        assert answers == {202: HELD, 429: REQUESTS - HELD}
        assert (await rows(stack, "select count(*) from runs"))[0][0] == HELD
        told = await limit(caller, "tenant.tokens_per_day")
        assert told["limit"] == most
        assert told["used"] + told["reserved"] >= most
        for run in await rows(stack, "select id from runs"):
            await caller.cancel(run["id"])
        await until_nothing_runs(stack)
        for each in (caller, elsewhere):
            told = await until_settled(stack, each, "tenant.tokens_per_day")
        whole = (await caller.http.get("/v1/usage")).json()["data"][0]
        assert told["used"] == whole["input_tokens"] + whole["output_tokens"] > 0
        assert told["remaining"] == most - told["used"]
