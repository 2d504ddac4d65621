"""Tell processes at once what they would otherwise learn from Postgres at their next look."""

import asyncio
from collections.abc import Callable, Mapping

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from runstream.queue.names import TERMS_CHANNEL, control_channel

_PAUSE = 1.0
_DEADLINE = 3.0
"""Seconds that an announcement may take, connecting included."""
_SILENCE = 5.0
"""Seconds after which the connection is asked whether it lives; one that does not answer for as long again is dead."""

log = structlog.get_logger(__name__)


async def announce_cancel(redis: Redis, worker: str, run_id: str) -> None:
    """Best effort: where Redis does not answer, the worker's heartbeat finds the request."""
    await _announce(redis, control_channel(worker), run_id)


async def announce_terms(redis: Redis) -> None:
    """The terms of tenants are others. Best effort: where Redis does not answer, each process finds out by itself."""
    await _announce(redis, TERMS_CHANNEL, "")


async def _announce(redis: Redis, channel: str, message: str) -> None:
    try:
        async with asyncio.timeout(_DEADLINE):
            await redis.publish(channel, message)
    except (RedisError, OSError, TimeoutError) as error:
        log.warning("not_announced", channel=channel, message=message, error=type(error).__name__)


async def listen(redis: Redis, heard: Mapping[str, Callable[[str], None]]) -> None:
    """Call what is named for a channel with each message there, until cancelled.

    `redis` must be without a read timeout.
    """
    while True:
        try:
            async with redis.pubsub() as channel:
                async with asyncio.timeout(_DEADLINE):
                    await channel.subscribe(*heard)
                await _listen(channel, heard)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("control_channel_lost", error=type(error).__name__)
        await asyncio.sleep(_PAUSE)


async def _listen(channel: PubSub, heard: Mapping[str, Callable[[str], None]]) -> None:
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
            heard[message["channel"].decode()](message["data"].decode())
