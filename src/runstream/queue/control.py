"""Tell a worker at once what it would otherwise learn from Postgres at its next heartbeat."""

import asyncio
from collections.abc import Callable

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from runstream.queue.names import control_channel

_PAUSE = 1.0
_DEADLINE = 3.0
"""Seconds that an announcement may take, connecting included."""
_SILENCE = 5.0
"""Seconds after which the connection is asked whether it lives; one that does not answer for as long again is dead."""

log = structlog.get_logger(__name__)


async def announce_cancel(redis: Redis, worker: str, run_id: str) -> None:
    """Best effort: where Redis does not answer, the worker's heartbeat finds the request."""
    try:
        async with asyncio.timeout(_DEADLINE):
            await redis.publish(control_channel(worker), run_id)
    except (RedisError, OSError, TimeoutError) as error:
        log.warning("cancel_not_announced", run_id=run_id, error=type(error).__name__)


async def listen_for_cancels(redis: Redis, worker: str, cancel: Callable[[str], None]) -> None:
    """Call `cancel` with each run's id that is announced, until cancelled. `redis` must be without a read timeout."""
    while True:
        try:
            async with redis.pubsub() as channel:
                async with asyncio.timeout(_DEADLINE):
                    await channel.subscribe(control_channel(worker))
                await _listen(channel, cancel)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("control_channel_lost", error=type(error).__name__)
        await asyncio.sleep(_PAUSE)


async def _listen(channel: PubSub, cancel: Callable[[str], None]) -> None:
    """Until the connection is dead. Raises TimeoutError, or redis' errors."""
    asked = False
    while True:
        async with asyncio.timeout(2 * _SILENCE):
            message = await channel.get_message(timeout=_SILENCE)
            if message is None:
                if asked:
                    raise TimeoutError
                await channel.ping()
        asked = message is None
        if message is not None and message["type"] == "message":
            cancel(message["data"].decode())
