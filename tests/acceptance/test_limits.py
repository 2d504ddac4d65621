"""What may be asked for and spent is bounded: exactly, whoever asks at the same time and whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest

from caller import Caller, words
from reliability import MakeStack, flush, logged, reading, rows, user
from stack import PROVIDER, Stack
from waiting import until

PROMPT = "Count"
RESERVED = -(-len("user" + PROMPT) // 4) + 100
"""Tokens that a run of these tests takes: its input, and its `max_output_tokens`."""
INPUT = {"messages": [{"role": "user", "content": PROMPT}], "max_output_tokens": 100}
PRICES = {f"{PROVIDER}/*": {"input": 1, "output": 10}}
"""US dollars for a million tokens."""
SCOPES = ("user", "tenant", "feature")
SETTINGS = {
    "requests_per_minute": 2,
    "concurrent_runs": 2,
    **{f"tokens_per_{window}": 2 * RESERVED for window in ("minute", "day", "month")},
    **{f"cost_per_{window}": 2 * 0.001003 for window in ("minute", "day", "month")},
}
"""Each holds two runs of these tests."""
REQUESTS = 500
HELD = 50


def limited(**scopes: dict[str, Any]) -> str:
    return json.dumps(scopes)


async def ask(caller: Caller, model: str = "sim:5", **fields: Any) -> httpx.Response:
    return await caller.post(model, input={**INPUT, **fields})


def tenant_of(scope: str, setting: str) -> str:
    return f"{scope}-{setting}"


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
    each = COUNTED + 300
    most = HELD * each + each - 1  # what lapsed attempts took besides fits in what is too little for one more
    stack = make_stack(
        apis=2, workers=2, limits=limited(tenant={"tokens_per_day": most}), lease="1.5", lease_interval="0.3"
    )
    answers: Counter[int] = Counter()
    async with user(stack) as caller, caller.at(stack.urls[1]) as elsewhere:

        async def one(number: int) -> None:
            answer = await ask((caller, elsewhere)[number % 2], "hang:3", **counted(number), max_output_tokens=300)
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
        assert told["used"] + told["reserved"] >= HELD * each
        for run in await rows(stack, "select id from runs"):
            await until(lambda id=run["id"]: has_spoken(stack, id), "each has said what it is to say")
            await caller.cancel(run["id"])
        for number in range(REQUESTS, REQUESTS + 10):
            await ask(caller, f"sim:{number % 40}", **counted(number))
        await until_nothing_runs(stack)
        for reader in (caller, elsewhere):
            told = await until_settled(stack, reader, "tenant.tokens_per_day")
        whole = (await caller.http.get("/v1/usage")).json()["data"][0]
        assert told["used"] == whole["input_tokens"] + whole["output_tokens"] > 0
        assert told["remaining"] == most - told["used"]
    await assert_agreed_with_the_provider(stack, told["used"])


COUNTED = 3
"""Tokens of the prompts below, as the provider counts them, and as they are estimated."""


def counted(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"a b {number:03}"}]}


def has_spoken(stack: Stack, run_id: str) -> bool:
    """In the last attempt that its log has."""
    return [type_ for _, type_ in logged(stack, run_id)][-1:] == ["run.delta"]


async def assert_agreed_with_the_provider(stack: Stack, used: int) -> None:
    """Ledger and counters are what the provider counted, but for calls whose worker was killed as it made them."""
    await until(lambda: stack.provider_stats()["open_streams"] == 0)
    query = """
      select input -> 'messages' -> 0 ->> 'content' as asked, ledger.*, outcome
        from ledger join runs on runs.id = run_id
        join attempts on (attempts.run_id, attempts.attempt) = (ledger.run_id, ledger.attempt)
       order by ledger.run_id, ledger.attempt
    """
    lines: dict[str, list[asyncpg.Record]] = defaultdict(list)
    for line in await rows(stack, query):
        lines[line["asked"]].append(line)
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for call in stack.provider_calls():
        calls[call["asked"]].append(call)
    assert not calls.keys() - lines.keys(), "each call is on the ledger"
    unwritten = uncalled = 0
    for asked, paid in lines.items():
        never = len(paid) - len(calls[asked])
        assert 0 <= never <= sum(line["outcome"] == "lapsed" for line in paid)
        uncalled += never * COUNTED
        for line, call in zip(paid[never:], calls[asked], strict=True):
            assert line["estimated"] == (call["ending"] != "finish")
            assert line["input_tokens"] == call["input_tokens"] == COUNTED
            missing = call["tokens"] - line["output_tokens"]
            assert missing == 0 or (missing > 0 and line["outcome"] == "lapsed")
            unwritten += missing
    tokens = stack.provider_stats()["tokens"]
    assert tokens["input"] + tokens["output"] == used + unwritten - uncalled


# At the edge


@pytest.fixture(scope="module")
def edges(make_shared_stack: MakeStack) -> Stack:
    """Runs stay queued; each tenant that a test is for has one limit, named as the tenant is."""
    tenants = {
        tenant_of(scope, setting): {scope: {setting: most}} for scope in SCOPES for setting, most in SETTINGS.items()
    }
    return make_shared_stack(workers=0, limits=limited(tenants=tenants), prices=json.dumps(PRICES))


@pytest.mark.promise("P8")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("scope", SCOPES)
async def test_a_limit_refuses_at_its_edge_names_itself_and_leaves_nothing(
    edges: Stack, scope: str, setting: str
) -> None:
    tenant, name = tenant_of(scope, setting), f"{scope}.{setting}"
    async with Caller.of(edges, tenant, "ada") as ada, Caller.of(edges, tenant, "bob") as bob:
        await away_from_the_turn_of_the_window(setting)
        accepted = [await ask(ada), await ask(ada)]
        assert [answer.status_code for answer in accepted] == [202, 202]
        refused = await ask(ada)
        assert (await ask(bob)).status_code == (202 if scope == "user" else 429)
        assert (await rows(edges, "select count(*) from runs where tenant = $1 and user_id = 'ada'", tenant))[0][0] == 2
        told = await limit(ada, name)
        assert told["remaining"] in (0, "0")
        error = refused.json()["error"]
        long = setting.endswith(("day", "month"))
        assert (refused.status_code, error["param"]) == (429, name)
        assert error["code"] == ("budget_exceeded" if long else "rate_limited")
        assert name in error["message"]
        if setting == "requests_per_minute":
            assert abs(int(refused.headers["retry-after"]) - seconds_left(told)) <= 2
        else:
            assert 1 <= int(refused.headers["retry-after"]) <= 5, "runs under way are in its way"
        if setting.startswith(("tokens", "cost")):
            too_large = await ask(ada, max_output_tokens=1_000_000)
            assert abs(int(too_large.headers["retry-after"]) - seconds_left(told)) <= 2
        if not setting.startswith("cost"):
            assert f'"{name}";r=1' in accepted[0].headers["ratelimit"] or "tokens" in setting
            assert f'"{name}";r=0' in accepted[1].headers["ratelimit"]
            assert f'"{name}";r=0' in refused.headers["ratelimit"]
            assert f'"{name}";q={SETTINGS[setting]};' in refused.headers["ratelimit-policy"]


def seconds_left(told: dict[str, Any]) -> float:
    return (datetime.fromisoformat(told["resets_at"]) - datetime.now(UTC)).total_seconds()


async def away_from_the_turn_of_the_window(setting: str) -> None:
    """A month turns when a day does."""
    window = 60 if setting.endswith("minute") else 24 * 60 * 60
    if (left := window - time.time() % window) < 10:
        await asyncio.sleep(left)


@pytest.mark.promise("P4", "P8")
async def test_a_replayed_request_finds_its_run_though_the_budget_is_full_and_takes_nothing_of_it(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(workers=0, limits=limited(user={"tokens_per_day": RESERVED, "requests_per_minute": 100}))
    key = {"Idempotency-Key": "order-933"}
    async with user(stack) as caller:
        first = await caller.post(headers=key, input=INPUT)
        before = (await caller.http.get("/v1/limits")).json()["data"]
        for _ in range(3):
            again = await caller.post(headers=key, input=INPUT)
            assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        assert (await caller.post(headers=key, input=INPUT, model="sim:6")).status_code == 409
        assert (await caller.post(input=INPUT)).status_code == 429
        assert (await caller.http.get("/v1/limits")).json()["data"] == before


@pytest.mark.promise("P8")
async def test_a_run_that_is_tried_again_is_limited_as_a_new_one(make_stack: MakeStack) -> None:
    stack = make_stack(limits=limited(user={"concurrent_runs": 1}))
    async with user(stack) as caller:
        run_id = (await ask(caller, "status:400")).json()["id"]
        await caller.ended(run_id)
        other = (await ask(caller, "hang:3")).json()["id"]
        refused = await caller.http.post(f"/v1/runs/{run_id}/retry")
        assert (refused.status_code, refused.json()["error"]["param"]) == (429, "user.concurrent_runs")
        assert (await caller.get(run_id))["status"] == "failed"
        await caller.cancel(other)
        await until_none_counts(caller)
        assert (await caller.http.post(f"/v1/runs/{run_id}/retry")).status_code == 202
        await caller.ended(run_id)
        await until_none_counts(caller)


async def until_none_counts(caller: Caller) -> None:
    async def none() -> bool:
        return (await limit(caller, "user.concurrent_runs"))["reserved"] == 0

    await until(none, "no run counts")


# What it came to


@pytest.mark.promise("P8")
async def test_however_a_run_ends_it_is_settled_at_once_by_what_it_took(make_stack: MakeStack) -> None:
    name = "tenant.tokens_per_day"
    limits = limited(tenant={"tokens_per_day": 10**6, "concurrent_runs": 100})
    stack = make_stack(limits=limits, lease="1.5", lease_interval="0.3")
    async with user(stack) as caller:
        await limit(caller, name)
        epoch = await rows(stack, "select budget_epoch from tenants")
        for model, status in (("sim:5", "completed"), ("status:400", "failed"), ("cut:20", "failed")):
            run_id = (await ask(caller, model)).json()["id"]
            assert (await caller.ended(run_id))["status"] == status
            await until_settled(stack, caller, name)
        running = (await ask(caller, "hang:40")).json()["id"]
        async with reading(stack, caller, running) as viewer:
            await viewer.until(lambda viewer: viewer.text == words(40))
            assert (await limit(caller, name))["reserved"] == RESERVED
            stack.kill(stack.workers[0])
            queued = (await ask(caller)).json()["id"]
            await caller.cancel(queued)
            assert (await limit(caller, name))["reserved"] == RESERVED, "that of the one that waits is given back"
            await asyncio.to_thread(stack.start_worker)
            await viewer.until(lambda viewer: viewer.attempt == 2 and viewer.text == words(40))
            await caller.cancel(running)
        await until_settled(stack, caller, name)
        assert await spent(stack) > 2 * 40
        assert await rows(stack, "select budget_epoch from tenants") == epoch, "nothing had to be counted anew"


@pytest.mark.promise("P8")
async def test_an_emptied_redis_forgets_nothing_of_what_was_spent(make_stack: MakeStack) -> None:
    stack = make_stack(limits=limited(user={"tokens_per_month": RESERVED + 7}))
    async with user(stack) as caller:
        await caller.ended((await ask(caller)).json()["id"])
        before = await until_settled(stack, caller, "user.tokens_per_month")
        assert before["used"] > 0
        flush(stack)
        if before["used"] > 7:
            assert (await ask(caller)).status_code == 429
        flush(stack)
        assert await limit(caller, "user.tokens_per_month") == before


@pytest.mark.promise("P1", "P8")
async def test_limits_hold_exactly_while_redis_is_away_and_when_it_is_back(make_stack: MakeStack) -> None:
    stack = make_stack(apis=2, workers=0, limits=limited(tenant={"tokens_per_day": 5 * RESERVED}))
    async with user(stack) as caller, caller.at(stack.urls[1]) as elsewhere:
        assert (await ask(caller)).status_code == 202
        stack.valkey.kill()
        answers = await asyncio.gather(*(ask(each) for each in (caller, elsewhere) * 10))
        assert Counter(answer.status_code for answer in answers) == {202: 4, 429: 16}
        stack.valkey.start()
        await until_ready(caller)
        assert (await ask(elsewhere)).status_code == 429
        told = await limit(caller, "tenant.tokens_per_day")
        assert (told["reserved"], told["remaining"]) == (5 * RESERVED, 0)


async def until_ready(caller: Caller) -> None:
    async def ready() -> bool:
        return (await caller.http.get("/readyz")).status_code == 200

    await until(ready, "Redis is there again")
