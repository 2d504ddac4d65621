"""Where runs go: by tenant, by size, by complexity, to a canary; at what price; and what is warned of."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import uuid4

import httpx
import pytest

from caller import Caller, body, words
from reliability import reading, rows, stopped, worker_of
from runstream.embedded.port import free_port
from stack import MODELS, Stack, outside_the_loop
from waiting import until

SIZED = [
    {"target": "local/sim:1", "max_input_tokens": 20},
    {"target": "local/sim:2", "min_input_tokens": 21, "max_input_tokens": 100},
]
GRADED = [
    {"target": "local/sim:1", "complexity": ["low"], "price": [0, 10]},
    {"target": "local/sim:2", "complexity": ["medium", "high"], "price": {"input": 0, "output": 1000}},
]
DEAR = [10_000, 0]
"""A price at which each token of a prompt costs a cent."""
ROUTES = {
    "shared": ["local/sim:3"],
    "sized": SIZED,
    "graded": GRADED,
    "canary": ["local/sim:3", {"target": "local/sim:4", "canary": 0.5}],
    "canary-away": ["local/sim:6", {"target": "local/status:503", "canary": 1}],
    "canary-cut": ["local/cut:3", {"target": "local/cut:4", "canary": 0.5}],
    "canary-mute": ["local/nofinish:3", {"target": "local/nofinish:4", "canary": 0.5}],
    "dear-hang": [{"target": "local/hang:40", "price": DEAR}],
    "dear": [{"target": "local/sim:5", "price": DEAR}],
    "cheap": [{"target": "local/sim:5", "price": [1, 10]}],
}
TENANTS = {
    "acme": {"shared": ["local/sim:7"], "only-acmes": ["local/sim:7"], "shared:*": ["local/sim:7"]},
    "globex": {"shared": ["local/sim:8"]},
}
LIMITS = {"tenants": {"bounded": {"tenant": {"cost_per_day": 0.05}}}}
SPENT = """
    WITH made AS (INSERT INTO tenants (id) VALUES ('hurried') RETURNING id)
    INSERT INTO ledger (run_id, attempt, call, tenant, user_id, feature, model, provider, provider_model,
        input_tokens, output_tokens, cached_tokens, estimated, cost, made_at)
    SELECT 'run_' || n, 1, 1, id, 'ada', 'chat', 'm', 'p', 'm', 1, 1, 0, false, 5, at
    FROM made, (VALUES (1, now()), (2, date_trunc('day', now() + interval '1 day', 'UTC'))) AS spent (n, at)
"""
"""Today, and tomorrow as well: midnight may pass before it is looked at."""


@pytest.fixture(scope="module")
def ports() -> list[int]:
    """Of the workers' metrics."""
    return [free_port() for _ in range(2)]


@pytest.fixture(scope="module")
def routed(make_shared_stack: Callable[..., Stack], ports: list[int]) -> Stack:
    """With two workers, and with spend of before they were started."""
    stack = make_shared_stack(
        workers=0,
        models=json.dumps(MODELS | ROUTES),
        tenant_models=json.dumps(TENANTS),
        limits=json.dumps(LIMITS),
        warn_call_cost="0.01",
        warn_spend_times="2",
    )
    outside_the_loop(lambda: asyncio.run(rows(stack, SPENT)))
    for port in ports:
        stack.start_worker(worker_metrics_port=str(port))
    return stack


@pytest.fixture
async def caller(routed: Stack) -> AsyncIterator[Caller]:
    async with Caller.of(routed, f"tenant-{uuid4().hex}", "ada") as caller:
        yield caller


def total(ports: list[int], sample: str) -> float:
    """A figure of the workers, together."""
    told = "".join(httpx.get(f"http://127.0.0.1:{port}/metrics").text for port in ports)
    return sum(float(line.rpartition(" ")[2]) for line in told.splitlines() if line.startswith(f"{sample} "))


def calls(ports: list[int], model: str, outcome: str) -> float:
    return total(ports, f'runstream_target_calls_total{{model="{model}",outcome="{outcome}",provider="local"}}')


def called(stack: Stack, prompt: str) -> Counter[str]:
    """Which models the provider was asked for with this prompt."""
    return Counter(call["model"] for call in stack.provider_calls() if call["asked"] == prompt)


def warnings(stack: Stack, event: str) -> list[dict[str, Any]]:
    """What all processes warned of, the dead ones included."""
    lines = "\n".join(stack.outputs().values()).splitlines()
    return [told for line in lines if f'"{event}"' in line and (told := json.loads(line))["event"] == event]


async def refused(caller: Caller, model: str, **fields: Any) -> dict[str, Any]:
    """The error of a request that makes no run."""
    before = await caller.list()
    answer = await caller.post(model, **fields)
    assert answer.status_code == 422
    assert await caller.list() == before
    return answer.json()["error"]


@pytest.mark.promise("P7")
async def test_a_tenant_has_its_own_models_before_everybodys_and_nobody_elses(routed, caller):
    outputs = {}
    async with Caller.of(routed, "acme", "ada") as acme, Caller.of(routed, "globex", "eve") as globex:
        for who in (acme, globex, caller):
            outputs[who.tenant] = (await who.ended(await who.create("shared")))["output"]["text"]
        assert (await acme.ended(await acme.create("only-acmes")))["provider_model"] == "sim:7"
        assert (await acme.ended(await acme.create("sim:2")))["provider_model"] == "sim:2"
        hidden = [
            await refused(who, model) for who in (globex, caller) for model in ("only-acmes", "shared:x", "nobodys")
        ]
    assert outputs == {"acme": words(7), "globex": words(8), caller.tenant: words(3)}
    assert len({json.dumps({**error, "request_id": ""}) for error in hidden}) == 1


async def test_the_page_names_the_models_of_the_key_that_it_hands_out_and_of_no_other_tenant(routed):
    async with httpx.AsyncClient(base_url=routed.url) as page:
        here, elsewhere = [
            (await page.get("/console.json", headers={"Host": host})).json() for host in ("localhost", "example.com")
        ]
    assert here["key"] == routed.key
    assert "only-acmes" in here["models"]
    assert set(elsewhere["models"]) == set(here["models"]) - {"only-acmes"}


async def test_the_inputs_size_chooses_the_target_and_what_is_too_large_for_all_is_told_so(caller):
    chosen = [
        (await caller.ended(await caller.create("sized", prompt="x" * 4 * tokens)))["provider_model"]
        for tokens in (19, 20, 99)
    ]
    assert chosen == ["sim:1", "sim:2", "sim:2"]


async def test_a_run_that_no_target_is_for_is_refused_with_what_to_change(caller):
    error = await refused(caller, "sized", prompt="x" * 400)
    assert (error["code"], error["param"]) == ("invalid_field", "input")
    assert "about 101 tokens" in error["message"]
    error = await refused(caller, "graded")
    assert (error["code"], error["param"]) == ("invalid_field", "complexity")
    assert "low, medium, high" in error["message"]
    assert (await refused(caller, "graded", complexity="huge"))["param"] == "complexity"


async def test_the_declared_complexity_chooses_the_target_of_each_attempt_and_is_shown(caller):
    for complexity, model in (("low", "sim:1"), ("medium", "sim:2"), ("high", "sim:2")):
        run = await caller.ended(await caller.create("graded", complexity=complexity))
        assert (run["complexity"], run["provider_model"]) == (complexity, model)
    run_id = await caller.create("hang:1", complexity="low")
    await caller.cancel(run_id)
    again = (await caller.http.post(f"/v1/runs/{run_id}/retry")).json()
    assert again["complexity"] == "low"
    await caller.cancel(run_id)


async def test_a_request_that_declares_nothing_is_the_one_that_it_was_before_it_could(routed, caller):
    """An `Idempotency-Key` outlives a deploy."""
    run_id = (await caller.post("sim:1", headers={"Idempotency-Key": "k"})).json()["id"]
    (kept,) = await rows(routed, "select idempotency_hash from runs where id = $1", run_id)
    request = (
        b'{"feature":"chat","model":"sim:1","input":{"messages":[{"content":"Count","role":"user"}]},'
        b'"metadata":{},"subject_type":null,"subject_id":null}'
    )
    assert kept[0] == sha256(request).digest()
    other = await caller.post("sim:1", headers={"Idempotency-Key": "k"}, complexity="low")
    assert other.status_code == 409


async def test_a_canary_has_its_share_of_the_runs_and_its_own_figures(routed, caller, ports):
    prompt, number = uuid4().hex, 60
    before = {model: calls(ports, model, "answered") for model in ("sim:3", "sim:4")}
    seen = total(ports, 'runstream_target_first_token_seconds_count{model="sim:4",provider="local"}')
    ids = [await caller.create("canary", prompt=prompt) for _ in range(number)]
    runs = [await caller.ended(run_id) for run_id in ids]
    share = Counter(run["provider_model"] for run in runs)
    assert called(routed, prompt) == share
    assert number / 6 < share["sim:4"] < number * 5 / 6
    for model in share:
        assert calls(ports, model, "answered") - before[model] == share[model]
    told = total(ports, 'runstream_target_first_token_seconds_count{model="sim:4",provider="local"}')
    assert told - seen == share["sim:4"]
    answer = await caller.http.get("/v1/usage", params={"group_by": "model,provider_model"})
    by_target = {each["provider_model"]: each["calls"] for each in answer.json()["data"]}
    assert by_target == share


async def test_a_canary_that_does_not_begin_to_answer_gives_way_and_is_seen_to(routed, caller, ports):
    prompt = uuid4().hex
    before = calls(ports, "status:503", "provider_unavailable")
    run = await caller.ended(await caller.create("canary-away", prompt=prompt))
    assert (run["status"], run["provider_model"], run["attempt"]) == ("completed", "sim:6", 1)
    assert called(routed, prompt) == {"status:503": 1, "sim:6": 1}
    assert calls(ports, "status:503", "provider_unavailable") - before == 1
    answer = await caller.http.get("/v1/usage", params={"group_by": "provider_model"})
    told = {each["provider_model"]: (each["calls"], each["refused_calls"]) for each in answer.json()["data"]}
    assert told == {"status:503": (1, 1), "sim:6": (1, 0)}


async def test_each_attempt_of_a_run_goes_the_same_way(routed, caller):
    prompt = uuid4().hex
    ids = [await caller.create("canary-cut", prompt=prompt) for _ in range(4)]
    for run_id in ids:
        await caller.ended(run_id)
        entries = await rows(routed, "select provider_model from ledger where run_id = $1", run_id)
        assert len(entries) == 3
        assert len(set(entries)) == 1


@pytest.mark.parametrize(("model", "kind"), [("canary-mute", "nofinish"), ("canary-cut", "cut")])
async def test_an_answer_that_breaks_off_or_has_no_end_is_a_failure_of_its_target(caller, ports, model, kind):
    def failures() -> float:
        return sum(calls(ports, f"{kind}:{count}", "provider_protocol_error") for count in (3, 4))

    before = failures()
    run = await caller.ended(await caller.create(model))
    assert run["error"]["code"] == "provider_protocol_error"
    assert failures() - before == run["attempt"] == 3


async def test_what_a_model_is_called_that_clients_may_name_as_they_like_is_no_label(caller, ports):
    before = calls(ports, "*", "answered")
    for name in ("sim:1", "sim:2"):
        await caller.ended(await caller.create(name))
    assert calls(ports, "*", "answered") - before == 2
    assert calls(ports, "sim:2:0:1", "answered") == 0


async def test_a_targets_price_is_reserved_and_charged(routed):
    asked = {"input": {**body()["input"], "max_output_tokens": 100}}
    async with Caller.of(routed, "bounded", "ada") as bounded:
        over = await bounded.post("graded", complexity="high", **asked)
        assert (over.status_code, over.json()["error"]["param"]) == (429, "tenant.cost_per_day")
        run = await bounded.ended(await bounded.create("graded", complexity="low", **asked))
    assert run["cost"] == "0.00001"
    (entry,) = await rows(routed, "select cost, price_version from ledger where run_id = $1", run["id"])
    assert tuple(entry) == (Decimal("0.00001"), "configured")


async def test_a_call_that_costs_more_than_is_usual_is_warned_of_once_with_what_it_was(routed, caller, ports):
    before = total(ports, "runstream_costly_calls_total")
    ids = [await caller.create("dear", prompt="one two three") for _ in range(6)]
    for run_id in [*ids, await caller.create("cheap")]:
        await caller.ended(run_id)
    told = [each for each in warnings(routed, "costly_call") if each["tenant"] == caller.tenant]
    assert sorted(each["run_id"] for each in told) == sorted(ids)
    assert {"run_id", "attempt", "tenant", "user_id", "feature", "model", "input_tokens", "level"} <= told[0].keys()
    assert (told[0]["provider_model"], Decimal(told[0]["cost"])) == ("sim:5", Decimal("0.03"))
    assert total(ports, "runstream_costly_calls_total") - before == len(ids)


async def test_spend_that_runs_ahead_of_its_usual_is_warned_of_once_by_two_workers(routed, ports):
    await until(lambda: warnings(routed, "spend_ahead"), "somebody has looked")
    (told,) = warnings(routed, "spend_ahead")
    assert (told["tenant"], Decimal(told["today"]), told["usual"]) == ("hurried", 5, "0")
    assert total(ports, "runstream_spend_ahead_total") == 1


async def test_a_costly_call_whose_worker_was_lost_is_warned_of_once_though_that_one_comes_back(routed, caller):
    run_id = await caller.create("dear-hang")
    async with reading(routed, caller, run_id) as viewer:
        await viewer.until(lambda viewer: viewer.text == words(40))
        with stopped((await worker_of(routed, run_id)).pid):
            await viewer.until(lambda viewer: viewer.attempt == 2 and viewer.text == words(40))
        await until(lambda: [each for each in warnings(routed, "attempt_fenced") if each["run_id"] == run_id], "fenced")
        await caller.cancel(run_id)
    told = [each["attempt"] for each in warnings(routed, "costly_call") if each["run_id"] == run_id]
    assert told == [1, 2]
