"""Tell a worker at once what it would otherwise learn from Postgres at its next heartbeat."""

import asyncio
from collections.abc import Callable

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from runstream.queue.names import control_channel

_PAUSE = 1.0

log = structlog.get_logger(__name__)


async def announce_cancel(redis: Redis, worker: str, run_id: str) -> None:
    """Best effort: where Redis does not answer, the worker's heartbeat finds the request."""
    try:
        await redis.publish(control_channel(worker), run_id)
    except (RedisError, OSError, TimeoutError) as error:
        log.warning("cancel_not_announced", run_id=run_id, error=type(error).__name__)


async def listen_for_cancels(redis: Redis, worker: str, cancel: Callable[[str], None]) -> None:
    """Call `cancel` with each run's id that is announced, until cancelled. `redis` must be without a read timeout."""
    while True:
        try:
            async with redis.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(control_channel(worker))
                async for message in channel.listen():
                    cancel(message["data"].decode())
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("control_channel_lost", error=type(error).__name__)
        await asyncio.sleep(_PAUSE)
