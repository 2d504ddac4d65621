"""Calls wait for their turn at a provider's keys: gateways as worker processes have them, on a real Valkey."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from asker import Asker
from pace import kept_the_pace
from runstream.counters.key_turns import Coming, Grant, KeyTurns, Rate
from runstream.domain.errors import ProviderBusy, ProviderTimeout
from runstream.domain.prompt import Prompt
from runstream.embedded import Valkey
from runstream.embedded.port import free_port
from runstream.gateway.circuits import Circuits
from runstream.gateway.generate import Gateway
from runstream.gateway.line import Line
from runstream.gateway.pricing import Prices
from runstream.gateway.routes import RouteQuery, Routes, TargetConfig
from runstream.gateway.turn import Lines
from runstream.providers.base import Finished, ProviderConfig, TextDelta, Timeouts
from runstream.providers.keys import KeyRing
from runstream.providers.registry import build
from runstream.providers.simulated import Simulator
from runstream.providers.simulated.calls import named
from runstream.redis_script import Scripts
from waiting import until

DEADLINE = 20
WAIT = 15.0
A_MINUTE = 120
QUICK = Rate(A_MINUTE, None)
"""Twelve at once, then two a second."""
ONE = Rate(1, None)
PATIENT = Timeouts(connect=10, first_token=20, idle=20, total=2000)
PROMPT = Prompt([{"role": "user", "content": "Count"}], max_output_tokens=100)


class Worker:
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def ask(self, model: str = "sim:5", tenant: str = "acme", prompt: Prompt = PROMPT) -> list[str]:
        """The providers that were asked, the last of which answered."""
        asker = Asker()
        async with self.gateway.generate(RouteQuery("run_1", tenant, model, {}), prompt, asker) as answer:
            pieces = [*answer.head, *[piece async for piece in answer.rest]]
            asker.usage = next(piece.usage for piece in pieces if isinstance(piece, Finished))
        assert any(isinstance(piece, TextDelta) for piece in pieces)
        return asker.tried

    def asks(self, times: int, **asked: str) -> list[asyncio.Task[list[str]]]:
        return [asyncio.create_task(self.ask(**asked)) for _ in range(times)]


class Site:
    """Simulators `a` and `b`, the targets of every model in this order, and workers that share a Valkey."""

    def __init__(self, stack: AsyncExitStack, simulators: Mapping[str, Simulator], redis: Redis) -> None:
        self._stack = stack
        self.simulators = simulators
        self.redis = redis

    def turns(self, redis: Redis | None = None, *, longest: float = WAIT, timeout: float = DEADLINE) -> KeyTurns:
        scripts = Scripts(redis or self.redis, timeout=timeout)
        self._stack.push_async_callback(scripts.aclose)
        return KeyTurns(scripts, longest=longest)

    async def worker(
        self,
        rates: Mapping[str, Rate],
        *,
        keys: tuple[str, ...] = ("k",),
        wait: float = WAIT,
        timeouts: Timeouts = PATIENT,
        kind: str = "openai",
        redis: Redis | None = None,
    ) -> Worker:
        name = f"wrk_{id(object())}_{len(keys)}_{asyncio.get_running_loop().time()}"
        providers = {
            provider: build(ProviderConfig(provider, kind, simulator.url, keys, background=kind == "openai-responses"))
            for provider, simulator in self.simulators.items()
        }
        turns = self.turns(redis, longest=wait, timeout=2)
        lines = Lines(
            {each: Line(each, rate, providers[each].keys, turns, worker=name) for each, rate in rates.items()},
            wait=wait,
            reserved_output=100,
        )
        for provider in providers.values():
            self._stack.push_async_callback(provider.aclose)
        self._stack.push_async_callback(lines.aclose)
        routes = Routes({"*": [TargetConfig(f"{provider}/*") for provider in self.simulators]}, providers)
        return Worker(Gateway(routes, providers, timeouts, Prices({}, {}), Circuits(), lines))

    def calls(self, provider: str = "a") -> list[dict]:
        return self.simulators[provider].record.told()["calls"]

    async def waiting(self) -> int:
        return await self.redis.hlen("runstream:line:a:calls")

    async def until_waiting(self, least: int) -> None:
        """Until so many wait at the least; until nobody does, for 0."""
        async with asyncio.timeout(DEADLINE):
            while (number := await self.waiting()) < least or number > least == 0:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def standing(redis_url: str, *names: str) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(redis_url))
        simulators = {name: await stack.enter_async_context(Simulator()) for name in names}
        yield Site(stack, simulators, redis)


@pytest.fixture
async def site(redis_url: str) -> AsyncIterator[Site]:
    async with standing(redis_url, "a") as site:
        yield site


@pytest.fixture
async def two_targets(redis_url: str) -> AsyncIterator[Site]:
    async with standing(redis_url, "a", "b") as site:
        yield site


def told(name: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"provider": "a"})


async def test_calls_of_two_workers_wait_rather_than_fail_and_no_key_has_more_than_its_rate(site: Site) -> None:
    keys = ("k1", "k2")
    workers = [await site.worker({"a": QUICK}, keys=keys) for _ in range(2)]
    before = told("runstream_provider_wait_seconds_sum") or 0
    asked = [task for worker in workers for task in worker.asks(16)]
    await asyncio.gather(*asked)
    assert (told("runstream_provider_wait_seconds_sum") or 0) - before > 4
    calls = site.calls()
    assert Counter(call["ending"] for call in calls) == {"finish": 32}
    for key in keys:
        times = [call["began"] for call in calls if call["key"] == named(key)]
        assert len(times) > 12
        assert kept_the_pace(times, A_MINUTE)


async def test_a_call_of_another_tenant_is_not_behind_the_many_of_the_first(site: Site) -> None:
    many, other = await site.worker({"a": QUICK}, wait=60), await site.worker({"a": QUICK}, wait=60)
    first = many.asks(60, model="sim:1", tenant="many")
    await site.until_waiting(40)
    await other.ask("sim:2", "other")
    assert [call["model"] for call in site.calls()].index("sim:2") < 40
    for task in first:
        task.cancel()
    await asyncio.wait(first)


async def test_a_call_that_would_wait_for_too_long_goes_to_the_next_target_at_once(two_targets: Site) -> None:
    worker = await two_targets.worker({"a": ONE, "b": QUICK})
    assert [await worker.ask() for _ in range(3)] == [["a"], ["b"], ["b"]]


async def test_a_call_that_no_target_has_room_for_fails_so_that_it_is_tried_again(two_targets: Site) -> None:
    worker = await two_targets.worker({"a": ONE, "b": ONE})
    assert [await worker.ask() for _ in range(2)] == [["a"], ["b"]]
    with pytest.raises(ProviderBusy) as busy:
        await worker.ask()
    assert busy.value.retryable
    assert busy.value.code == "provider_busy"
    assert 30 < (busy.value.retry_after or 0) <= 61
    assert await two_targets.waiting() == 0


async def test_a_call_whose_time_runs_out_in_line_goes_to_the_next_target(two_targets: Site) -> None:
    """Five calls of somebody who does not take their turns are before it."""
    rate = Rate(None, 60_000)
    ahead = two_targets.turns()
    await ahead.take("a", rate, ["k"], "ahead", [Coming(f"c{n}", "x", 6000, 100) for n in range(6)], [])
    worker = await two_targets.worker({"a": rate}, wait=1.5)
    asked = asyncio.create_task(worker.ask())
    while not asked.done():
        await ahead.take("a", rate, ["k"], "ahead", [], [])
        await asyncio.sleep(0.2)
    assert asked.result() == ["b"]
    assert await two_targets.waiting() == 5


async def test_a_call_that_is_given_up_in_line_leaves_it_at_once(site: Site) -> None:
    worker = await site.worker({"a": ONE}, wait=1000)
    await worker.ask("sim:1")
    (asked,) = worker.asks(1, model="sim:2")
    await site.until_waiting(1)
    assert told("runstream_provider_calls_waiting") == 1
    asked.cancel()
    await asyncio.wait([asked], timeout=1)
    assert asked.cancelled()
    assert told("runstream_provider_calls_waiting") == 0
    await site.until_waiting(0)
    assert [call["model"] for call in site.calls()] == ["sim:1"]


async def test_a_turn_that_came_as_its_call_was_given_up_is_given_back(site: Site) -> None:
    turns = site.turns()
    line = Line("a", ONE, KeyRing("a", ("k",)), turns, worker="w")
    for steps in range(30):
        asked = asyncio.create_task(line.turn("acme", 0, 1000))
        for _ in range(steps):
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        if not asked.cancelled():
            line.settle(cast(Grant, asked.result()), made=False, tokens=0)
    await asyncio.wait_for(line.turn("acme", 0, 1000), DEADLINE)
    await line.aclose()


async def test_an_emptied_redis_costs_no_call_its_turn(site: Site) -> None:
    worker = await site.worker({"a": QUICK})
    asked = worker.asks(20)
    await site.until_waiting(4)
    await site.redis.flushall()
    await asyncio.gather(*asked)


async def test_calls_go_on_uncounted_while_redis_is_away_and_that_is_told_once(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Redis.from_url(f"redis://127.0.0.1:{free_port()}/0") as nobody:
        worker = await site.worker({"a": ONE}, redis=nobody)
        await asyncio.gather(*worker.asks(5))
    assert len(site.calls()) == 5
    assert capsys.readouterr().out.count("calls_go_on_uncounted") == 1


async def test_calls_that_wait_go_on_when_redis_goes_away(site: Site, server_directory: Path) -> None:
    with Valkey(server_directory / "valkey", durable=False) as server:
        async with Redis.from_url(server.url) as redis:
            worker = await site.worker({"a": ONE}, wait=1000, redis=redis)
            asked = worker.asks(3)
            await until(lambda: sum(task.done() for task in asked) == 1)
            server.kill()
            await asyncio.gather(*asked)
    assert len(site.calls()) == 3


async def test_a_call_whose_key_is_refused_has_its_turn_at_another(site: Site) -> None:
    worker = await site.worker({"a": ONE}, keys=("bad", "k1", "k2"), wait=0)
    assert [await worker.ask() for _ in range(2)] == [["a"], ["a"]]
    assert {call["key"] for call in site.calls()} == {named("k1"), named("k2")}
    with pytest.raises(ProviderBusy):
        await worker.ask()


async def test_tokens_that_were_reserved_and_not_taken_are_room_for_the_next_call(site: Site) -> None:
    """A call reserves 104 tokens and takes less than ten: three of them fit where two would not."""
    worker = await site.worker({"a": Rate(None, 200)}, wait=5)
    for _ in range(3):
        assert await worker.ask("sim:1") == ["a"]


async def test_what_was_waited_in_line_counts_to_the_total_time_and_not_to_the_first_token(site: Site) -> None:
    rate = Rate(20, None)  # two at once, then one every three seconds
    worker = await site.worker({"a": rate}, timeouts=Timeouts(first_token=2.5, idle=20, total=4))
    quick = worker.asks(3)
    assert await asyncio.gather(*quick) == [["a"]] * 3
    with pytest.raises(ProviderTimeout, match="did not finish"):
        await worker.ask("sim:40:20")


async def test_what_a_call_waits_for_another_key_does_not_count_to_the_first_token(site: Site) -> None:
    rate = Rate(20, None)
    worker = await site.worker({"a": rate}, keys=("bad", "k1"), timeouts=Timeouts(first_token=2.5, idle=20, total=20))
    ahead = site.turns()
    assert (
        len((await ahead.take("a", rate, ["k1"], "w", [Coming(f"c{n}", "x", 0, 0) for n in range(2)], [])).granted) == 2
    )
    assert await worker.ask() == ["a"]


async def test_an_answer_in_the_background_waits_for_its_turn_too(site: Site) -> None:
    worker = await site.worker({"a": ONE}, keys=("k1", "k2"), wait=0, kind="openai-responses")
    assert [await worker.ask() for _ in range(2)] == [["a"], ["a"]]
    assert {call["key"] for call in site.calls()} == {named("k1"), named("k2")}
    with pytest.raises(ProviderBusy):
        await worker.ask()
