"""The counters' windows are those that the rest of the product knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import redis
from redis.asyncio import Redis

from runstream.counters import book
from runstream.counters.book import Book, Outcome
from runstream.domain.limits import Account, Limit, Measure, Party, Scope, Settlement, Take, Window
from runstream.redis_script import Scripts

DEADLINE = 20


@pytest.mark.parametrize("kind", Window)
def test_redis_and_python_agree_on_each_window(kind: Window, redis_url: str) -> None:
    at = datetime(2023, 12, 30, 23, 58, 30, tzinfo=UTC)
    moments = [at + n * timedelta(hours=7, minutes=13) for n in range(2000)]
    source = f"""{book._source("begin").partition("-- Let one process")[0]}
        local answer = {{}}
        for i = 2, #ARGV do
            local key, after = window(ARGV[1], tonumber(ARGV[i]))
            answer[#answer + 1] = key
            answer[#answer + 1] = after
        end
        return answer
    """
    with redis.Redis.from_url(redis_url, socket_timeout=DEADLINE, decode_responses=True) as client:
        answer = client.eval(source, 1, "t", kind, *(int(moment.timestamp()) for moment in moments))
    for moment, key, after in zip(moments, answer[::2], answer[1::2], strict=True):
        assert key == f"t:{kind}:{int(kind.start(moment).timestamp())}"
        assert after == int(kind.end(moment).timestamp())


async def test_each_window_expires_after_it_has_turned(redis_url: str) -> None:
    party, limits = Party("acme", "ada", "chat"), (Limit(Scope.TENANT, Measure.TOKENS, Window.DAY, 200),)
    client = Redis.from_url(redis_url)
    scripts = Scripts(client, timeout=DEADLINE)
    counters = Book(client, scripts)
    try:
        at = await counters.begin("acme", "read")
        assert at
        assert await counters.install("acme", "read", 1, Account(at, [], {}), bounded=True)
        for run in ("run_1", "run_2"):
            assert (await counters.reserve(Take(run, party, 20, 5), limits)).outcome is Outcome.RESERVED
            await counters.settle(Settlement("acme", run, 0, 1, 7, 3, at, ended=True, reserved=True))
        for kind in Window:
            key = f"runstream:limits:acme:{kind}:{int(kind.start(at).timestamp())}"
            assert await client.hget(key, "tenant:tokens:") == b"14"
            assert await client.expiretime(key) == int(kind.end(at).timestamp()) + 3600
    finally:
        await scripts.aclose()
        await client.aclose()


async def test_a_user_who_is_forgotten_is_in_no_window_and_others_stay_as_they_are(redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    scripts = Scripts(client, timeout=DEADLINE)
    counters = Book(client, scripts)
    limits = tuple(Limit(Scope.USER, Measure.TOKENS, kind, 200) for kind in Window)
    try:
        at = await counters.begin("acme", "read")
        assert at
        assert await counters.install("acme", "read", 1, Account(at, [], {}), bounded=True)
        for user in ("ada", "bob"):
            await counters.reserve(Take(f"run_{user}", Party("acme", user, "chat"), 20, 5), limits)
            await counters.settle(Settlement("acme", f"run_{user}", 0, 1, 7, 3, at, ended=True, reserved=True))
        await counters.forget_user("acme", "ada")
        fields = [
            field
            for kind in Window
            for field in await client.hkeys(f"runstream:limits:acme:{kind}:{int(kind.start(at).timestamp())}")
        ]
        assert fields.count(b"user:tokens:bob") == len(list(Window))
        assert not [field for field in fields if field.endswith(b":ada")]
        assert fields.count(b"tenant:tokens:") == len(list(Window))
    finally:
        await scripts.aclose()
        await client.aclose()
