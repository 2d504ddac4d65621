"""Who makes a call, and who reads it, as Redis has it."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing

from redis.asyncio import Redis

from runstream.answers.board import Board, Found, Kept, Step
from runstream.redis_script import Scripts

KEY = "key"


async def test_a_call_is_still_made_though_redis_was_emptied_and_another_process_began_one_for_the_same(
    redis_url: str,
) -> None:
    async with AsyncExitStack() as open_:
        redis = await open_.enter_async_context(Redis.from_url(redis_url))
        maker, reader, another = [
            Board(await open_.enter_async_context(aclosing(Scripts(redis, timeout=10))), worker, lease=60)
            for worker in ("maker", "reader", "another")
        ]
        assert await maker.open(KEY, "call_1", disregard=None) == (Found.OWN, "call_1")
        assert await reader.open(KEY, "call_2", disregard=None) == (Found.ASKING, "call_1")
        await redis.flushdb()
        assert await another.open(KEY, "call_3", disregard=None) == (Found.OWN, "call_3")
        assert await reader.keep_up([(Step.FOLLOW, KEY, "call_1")]) == [Kept(False, 0)]
        assert await maker.keep_up([(Step.LEAD, KEY, "call_1")]) == [Kept(True, 1)]
        assert await reader.keep_up([(Step.FOLLOW, KEY, "call_1")]) == [Kept(True, 0)]
        assert not await maker.abandon(KEY, "call_1")
        assert await reader.keep_up([(Step.FOLLOW, KEY, "call_1")]) == [Kept(True, 0)]
        assert await maker.release(KEY, "call_1") == 1
        assert await reader.keep_up([(Step.FOLLOW, KEY, "call_1")]) == [Kept(False, 0)]
        assert await reader.open(KEY, "call_2", disregard=None) == (Found.ASKING, "call_3")
        assert await another.abandon(KEY, "call_3") is False
        await reader.leave(KEY, "call_3")
        assert await another.abandon(KEY, "call_3")
        await reader.leave(KEY, "call_1")
        assert await redis.keys("*") == []
