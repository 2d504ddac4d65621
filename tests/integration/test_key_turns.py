"""Whose turn it is at a provider's keys: the scripts on a real Valkey, by a clock of the test's own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import count
from typing import NamedTuple

import pytest
from redis.asyncio import Redis

from runstream.counters.key_turns import ALIVE, Coming, Grant, KeyTurns, Rate, Told
from runstream.redis_script import Scripts

DEADLINE = 20
LONGEST = 30.0
PATIENT = 1000.0
MINUTE = 60_000
SLOW = Rate(60, None)
"""A request a second, once a tenth of a minute's worth was taken."""


class Desk:
    """The turns at a provider's keys, at a time that the test sets, in ms."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self.redis = redis
        self.now = 1_700_000_000_000
        self.turns = KeyTurns(scripts, longest=LONGEST, now=lambda: self.now)
        self._ids = count()

    async def ask(
        self, rate: Rate, *coming: Coming, worker: str = "w1", keys: tuple[str, ...] = ("k",), going=()
    ) -> Told:
        return await self.turns.take("p", rate, keys, worker, coming, going)

    def call(self, tenant: str = "acme", tokens: int = 0, patience: float = PATIENT) -> Coming:
        return Coming(f"call_{next(self._ids):05}", tenant, tokens, patience)

    def calls(self, number: int, tenant: str = "acme") -> list[Coming]:
        return [self.call(tenant) for _ in range(number)]

    async def served(self, rate: Rate, seconds: float, *workers: str) -> list[str]:
        """The ids that have their turn within so much time, in order, where each worker asks four times a second."""
        ids = []
        for _ in range(int(seconds * 4)):
            self.now += 250
            for worker in workers or ("w1",):
                ids += [grant.id for grant in (await self.ask(rate, worker=worker)).granted]
        return ids


@pytest.fixture
async def desk(redis_url: str) -> AsyncIterator[Desk]:
    async with Redis.from_url(redis_url) as redis, aclosing(Scripts(redis, timeout=DEADLINE)) as scripts:
        yield Desk(redis, scripts)


def ids(calls: list[Coming] | list[Grant]) -> list[str]:
    return [call.id for call in calls]


class Made(NamedTuple):
    at: int
    grant: Grant


@pytest.mark.parametrize("seed", range(12))
async def test_no_60_seconds_hold_more_than_a_keys_rate_whatever_comes_and_goes(desk: Desk, seed: int) -> None:
    chance = random.Random(seed)
    rate = Rate(chance.choice([None, 1, 7, 60, 300]), chance.choice([None, 500, 20_000]))
    keys = ("k1", "k2", "k3")[: chance.randint(1, 3)]
    made: list[Made] = []
    took: dict[str, int] = {}
    for _ in range(150):
        desk.now += int(chance.expovariate(1) * chance.choice([5, 300, 4000]))
        coming = [
            desk.call(chance.choice("abc"), chance.randint(0, chance.choice([50, 400])), chance.choice([0, 5, 100]))
            for _ in range(chance.choice([0, 1, 1, 8]))
        ]
        told = await desk.ask(rate, *coming, worker=chance.choice(["w1", "w2"]), keys=keys)
        for grant in told.granted:
            made.append(Made(desk.now, grant))
            took[grant.id] = grant.tokens
            if chance.random() < 0.5:
                took[grant.id] = chance.randint(0, grant.tokens)
                await desk.turns.settle("p", rate, grant, made=True, tokens=took[grant.id])
        for key in keys:
            window = [each.grant for each in made if each.grant.key == key and each.at > desk.now - MINUTE]
            assert rate.requests is None or len(window) <= rate.requests
            assert rate.tokens is None or sum(took[grant.id] for grant in window) <= rate.tokens
    assert len(made) > 2


async def test_a_line_is_served_at_the_whole_rate_and_evenly(desk: Desk) -> None:
    calls = desk.calls(150)
    told = await desk.ask(SLOW, *calls)
    assert ids(told.granted) == ids(calls)[:6]
    served = await desk.served(SLOW, 121)
    assert ids(told.granted) + served == ids(calls)[: len(served) + 6]
    assert 114 <= len(served) <= 120


async def test_a_line_says_when_there_will_be_room(desk: Desk) -> None:
    told = await desk.ask(SLOW, *desk.calls(8))
    assert told.waiting == 2
    assert told.wait == 1.0
    desk.now += 999
    assert not (await desk.ask(SLOW)).granted
    desk.now += 1
    assert len((await desk.ask(SLOW)).granted) == 1


async def test_tenants_take_turns_and_each_ones_calls_go_in_the_order_in_which_they_came(desk: Desk) -> None:
    many, other, late = desk.calls(106, "many"), desk.calls(2, "other"), desk.calls(1, "late")
    await desk.ask(SLOW, *many)
    await desk.ask(SLOW, *other, worker="w2")
    first = await desk.served(SLOW, 1, "w1", "w2")
    await desk.ask(SLOW, *late, worker="w2")
    served = first + await desk.served(SLOW, 6, "w1", "w2")
    waiting = ids(many)[6:]
    assert served == [waiting[0], ids(other)[0], waiting[1], ids(late)[0], ids(other)[1], *waiting[2:4]]


async def test_a_worker_takes_what_there_is_room_for_though_another_has_not_asked_for_its_turn_yet(desk: Desk) -> None:
    await desk.ask(SLOW, *desk.calls(7, "a"))
    (second,) = desk.calls(1, "b")
    assert not (await desk.ask(SLOW, second, worker="w2")).granted
    desk.now += 1999
    assert not (await desk.ask(SLOW, worker="w2")).granted
    desk.now += 1
    assert ids((await desk.ask(SLOW, worker="w2")).granted) == [second.id]
    assert len((await desk.ask(SLOW, worker="w1")).granted) == 1


async def test_the_key_with_the_most_room_is_given(desk: Desk) -> None:
    rate = Rate(60, 6000)
    told = await desk.ask(rate, desk.call(tokens=400), keys=("a", "b"))
    assert [grant.key for grant in told.granted] == ["a"]
    told = await desk.ask(rate, *(desk.call(tokens=100) for _ in range(4)), keys=("a", "b"))
    assert [grant.key for grant in told.granted] == ["b"] * 4
    told = await desk.ask(rate, *(desk.call(tokens=50) for _ in range(2)), keys=("a", "b"))
    assert sorted(grant.key for grant in told.granted) == ["a", "b"]


async def test_what_a_call_did_not_take_is_room_for_others(desk: Desk) -> None:
    rate = Rate(None, 6000)
    (grant,) = (await desk.ask(rate, desk.call(tokens=600))).granted
    waiting = desk.call(tokens=500)
    assert not (await desk.ask(rate, waiting)).granted
    await desk.turns.settle("p", rate, grant, made=True, tokens=100)
    assert ids((await desk.ask(rate)).granted) == [waiting.id]


async def test_a_call_that_was_never_made_is_given_back_with_its_request(desk: Desk) -> None:
    rate = Rate(1, None)
    (grant,) = (await desk.ask(rate, desk.call())).granted
    waiting = desk.call(patience=100)
    assert not (await desk.ask(rate, waiting)).granted
    await desk.turns.settle("p", rate, grant, made=False, tokens=0)
    assert ids((await desk.ask(rate)).granted) == [waiting.id]


async def test_what_is_settled_after_its_minute_changes_nothing(desk: Desk) -> None:
    rate = Rate(1, None)
    (grant,) = (await desk.ask(rate, desk.call())).granted
    desk.now += MINUTE + 1000
    assert (await desk.ask(rate, desk.call())).granted
    await desk.turns.settle("p", rate, grant, made=False, tokens=0)
    assert not (await desk.ask(rate, desk.call())).granted


async def test_a_call_larger_than_a_minute_has_its_turn_when_the_key_did_nothing_for_one(desk: Desk) -> None:
    rate = Rate(None, 1000)
    assert (await desk.ask(rate, desk.call(tokens=10))).granted
    large = desk.call(tokens=5000, patience=100)
    assert not (await desk.ask(rate, large)).granted
    assert await desk.served(rate, 60) == []
    assert await desk.served(rate, 1) == [large.id]


async def test_a_call_that_would_wait_for_too_long_is_told_so_at_once(desk: Desk) -> None:
    await desk.ask(SLOW, *desk.calls(26, "many"))
    late, other, hasty = desk.call("many", patience=19), desk.call("other", patience=19), desk.call("third", patience=0)
    told = await desk.ask(SLOW, late, other, hasty)
    assert dict(told.refused) == {late.id: 23.0, hasty.id: 1.0}
    assert told.waiting == 21


async def test_a_call_that_waits_for_tokens_is_not_told_so_for_they_may_be_given_back(desk: Desk) -> None:
    rate = Rate(None, 1000)
    (grant,) = (await desk.ask(rate, desk.call(tokens=1000))).granted
    call = desk.call(tokens=50, patience=5)
    assert not (await desk.ask(rate, call)).refused
    await desk.turns.settle("p", rate, grant, made=True, tokens=10)
    assert ids((await desk.ask(rate)).granted) == [call.id]


async def test_the_calls_of_a_worker_that_died_lose_their_places_within_seconds(desk: Desk) -> None:
    await desk.ask(SLOW, *desk.calls(106), worker="dead")
    (call,) = desk.calls(1)
    await desk.ask(SLOW, call, worker="w2")
    desk.now += int(ALIVE * 1000) - 1
    assert not (await desk.ask(SLOW, worker="w2")).granted
    desk.now += 1
    assert ids((await desk.ask(SLOW, worker="w2")).granted) == [call.id]
    assert (await desk.ask(SLOW, worker="dead")).waiting == 0


async def test_a_worker_that_lives_keeps_its_places(desk: Desk) -> None:
    await desk.ask(SLOW, *desk.calls(106), worker="w1")
    (call,) = desk.calls(1)
    await desk.ask(SLOW, call, worker="w2")
    assert call.id not in await desk.served(SLOW, 8, "w1", "w2")


async def test_calls_that_go_make_room(desk: Desk) -> None:
    calls = desk.calls(8)
    await desk.ask(SLOW, *calls)
    told = await desk.ask(SLOW, going=ids(calls)[6:7])
    assert told.waiting == 1
    desk.now += 1000
    assert ids((await desk.ask(SLOW)).granted) == ids(calls)[7:]


async def test_all_that_is_left_is_gone_after_minutes_and_names_no_key(desk: Desk) -> None:
    rate = Rate(60, 10_000)
    await desk.ask(rate, *(desk.call(tokens=100) for _ in range(20)), keys=("secret-1", "secret-2"), worker="dead")
    left = [name.decode() async for name in desk.redis.scan_iter()]
    assert len(left) == 8
    for name in left:
        assert "secret" not in name
        assert 0 < await desk.redis.pttl(name) <= 180_000


async def test_a_key_whose_calls_take_nothing_holds_no_more_than_its_last_minute(desk: Desk) -> None:
    rate = Rate(None, 6000)
    for _ in range(200):
        desk.now += 1000
        (grant,) = (await desk.ask(rate, desk.call(tokens=50))).granted
        await desk.turns.settle("p", rate, grant, made=True, tokens=0)
    (name,) = [name async for name in desk.redis.scan_iter("*:key:*")]
    assert await desk.redis.hlen(name) <= 65
