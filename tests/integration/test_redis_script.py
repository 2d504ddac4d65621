"""Scripts share a connection: in order, in as few writes as can be, and none pays for another's failure."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from runstream.redis_script import Script, Scripts

DEADLINE = 20
APPEND = "return redis.call('RPUSH', KEYS[1], ARGV[1])"
LENGTH = "return redis.call('LLEN', KEYS[1])"
FAIL = "return redis.error_reply('REFUSED by the script')"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as redis:
        yield redis


@pytest.fixture
async def scripts(redis: Redis) -> AsyncIterator[Scripts]:
    async with aclosing(Scripts(redis, timeout=DEADLINE)) as scripts:
        yield scripts


async def reads(redis: Redis) -> int:
    """How many times Redis has read from its clients."""
    return int((await redis.info("stats"))["total_reads_processed"])


async def test_what_is_called_in_the_same_moment_is_done_in_order_and_sent_together(
    redis: Redis, scripts: Scripts
) -> None:
    append, length = Script(scripts, APPEND), Script(scripts, LENGTH)
    await asyncio.gather(append(["list"], ["a"]), length(["list"], []))

    async def a_moment_later() -> int:
        await asyncio.sleep(0)
        return int(await length(["list"], []))

    before = await reads(redis)
    answers = await asyncio.gather(append(["list"], ["b"]), a_moment_later(), append(["list"], ["c"]))
    assert answers == [2, 3, 3], "who comes a moment later goes along, last"
    assert await reads(redis) - before == 2, "one of the calls, and one of the question"
    assert await redis.lrange("list", 0, -1) == [b"a", b"b", b"c"]


async def test_what_is_called_while_answers_are_awaited_is_sent_together_afterwards(
    redis: Redis, scripts: Scripts
) -> None:
    append = Script(scripts, APPEND)
    await append(["list"], ["0"])
    await redis.client_pause(300)
    first = asyncio.create_task(append(["list"], ["1"]))
    await asyncio.sleep(0.05)
    rest = [asyncio.create_task(append(["list"], [number])) for number in range(2, 102)]
    assert await asyncio.gather(first, *rest) == list(range(2, 103))


async def test_a_script_that_fails_fails_alone(redis: Redis, scripts: Scripts) -> None:
    append, fail = Script(scripts, APPEND), Script(scripts, FAIL)
    calls = append(["list"], ["a"]), fail(["list"], []), append(["list"], ["b"])
    before, failed, after = await asyncio.gather(*calls, return_exceptions=True)
    assert (before, type(failed), after) == (1, ResponseError, 2)
    assert await append(["list"], ["c"]) == 3


async def test_after_a_lost_connection_the_next_call_goes_by_another(redis: Redis, scripts: Scripts) -> None:
    append = Script(scripts, APPEND)
    await append(["list"], ["a"])
    await redis.script_flush()
    await redis.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises((RedisError, OSError)):
        await append(["list"], ["lost"])
    assert await append(["list"], ["b"]) == 2


async def test_where_redis_does_not_answer_nobody_waits_longer_than_those_before(redis: Redis) -> None:
    async with aclosing(Scripts(redis, timeout=0.3)) as scripts:
        append = Script(scripts, APPEND)
        await append(["list"], ["a"])
        await redis.client_pause(1500)
        first = asyncio.create_task(append(["list"], ["b"]))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(append(["list"], ["c"]))
        done, _ = await asyncio.wait([first, second], timeout=DEADLINE, return_when=asyncio.FIRST_EXCEPTION)
        assert done == {first, second}, "the second is not sent on a connection that does not answer"
        assert [type(each.exception()) for each in (first, second)] == [TimeoutError, TimeoutError]


async def test_who_has_gone_before_the_call_was_sent_has_not_called(redis: Redis, scripts: Scripts) -> None:
    append = Script(scripts, APPEND)
    gone = asyncio.create_task(append(["list"], ["gone"]))
    await asyncio.sleep(0)
    gone.cancel()
    assert await append(["list"], ["a"]) == 1
    assert await redis.lrange("list", 0, -1) == [b"a"]
