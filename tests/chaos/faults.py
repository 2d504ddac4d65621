"""What befalls the processes. Each fault returns when it is over and all stands again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import asyncpg
import redis
from tests.chaos.stage import LEASE, Place, Stage
from tests.proxy import Proxy

DEADLINE = 30
ENDED_WELL = {0, -signal.SIGTERM}
"""Uvicorn ends by the signal that it was given, once it has served all."""

Fault = Callable[[Stage, Random], Awaitable[None]]


async def worker_killed(stage: Stage, random: Random) -> None:
    async with stage.one_of(stage.workers, random) as place:
        await _killed(stage, place, random)


async def api_killed(stage: Stage, random: Random) -> None:
    async with stage.one_of(stage.apis, random) as place:
        await _killed(stage, place, random)


async def _killed(stage: Stage, place: Place, random: Random) -> None:
    await stage.kill(place)
    await asyncio.sleep(random.uniform(0, 1))
    await stage.occupy(place)


async def worker_deployed(stage: Stage, random: Random) -> None:
    async with stage.one_of(stage.workers, random) as place:
        await _deployed(stage, place)


async def api_deployed(stage: Stage, random: Random) -> None:
    async with stage.one_of(stage.apis, random) as place:
        await _deployed(stage, place)


async def _deployed(stage: Stage, place: Place) -> None:
    """The next one is there before the one before has gone."""
    leaving = place.process
    await stage.occupy(place)
    code = await asyncio.to_thread(stage.stack.stop, leaving)
    assert code in ENDED_WELL, f"{leaving.name} ended with {code}:\n{leaving.output()[-2000:]}"


async def worker_stopped_past_its_lease(stage: Stage, random: Random) -> None:
    async with stage.one_of(stage.workers, random) as place:
        await _paused(place, LEASE + random.uniform(0.3, 1.5))


async def api_stopped_for_a_while(stage: Stage, random: Random) -> None:
    async with stage.one_of(stage.apis, random) as place:
        await _paused(place, random.uniform(0.3, 2))


async def _paused(place: Place, seconds: float) -> None:
    place.process.pause()
    try:
        await asyncio.sleep(seconds)
    finally:
        place.process.resume()


async def redis_flushed(stage: Stage, random: Random) -> None:
    for _ in range(random.randint(1, 5)):
        await _tell_redis(stage, "FLUSHALL")
        await asyncio.sleep(random.uniform(0, 0.3))


async def redis_killed(stage: Stage, random: Random) -> None:
    """It comes back empty."""
    async with stage.redis_busy:
        await stage.of_servers(stage.stack.valkey.kill)
        await asyncio.sleep(random.uniform(0, 1.5))
        await stage.of_servers(stage.stack.valkey.start)


async def redis_frozen(stage: Stage, random: Random) -> None:
    """It takes connections, and what it was told before takes effect once it wakes up."""
    async with stage.redis_busy:
        await _tell_redis(stage, "CLIENT", "PAUSE", int(random.uniform(300, 2500)), "ALL")


async def redis_full(stage: Stage, random: Random) -> None:
    async with stage.redis_busy:
        await _tell_redis(stage, "CONFIG", "SET", "maxmemory", "1mb")
        await asyncio.sleep(random.uniform(0.5, 2))
        await _tell_redis(stage, "CONFIG", "SET", "maxmemory", "0")


async def redis_unreachable(stage: Stage, random: Random) -> None:
    async with _all_or_one(stage.links_of("redis"), random, Proxy.cut):
        await asyncio.sleep(random.uniform(0.5, 3))


async def redis_stalled(stage: Stage, random: Random) -> None:
    async with _all_or_one(stage.links_of("redis"), random, Proxy.stall):
        await asyncio.sleep(random.uniform(0.5, 3))


async def postgres_crashed(stage: Stage, random: Random) -> None:
    async with stage.postgres_busy:
        await stage.of_servers(stage.postgres.kill)
        await asyncio.sleep(random.uniform(0, 1))
        await stage.of_servers(stage.postgres.start)


async def postgres_unreachable(stage: Stage, random: Random) -> None:
    async with _all_or_one(stage.links_of("postgres"), random, Proxy.cut):
        await asyncio.sleep(random.uniform(0.5, 3))


async def postgres_stalled(stage: Stage, random: Random) -> None:
    async with _all_or_one(stage.links_of("postgres"), random, Proxy.stall):
        await asyncio.sleep(random.uniform(0.5, LEASE + 2))


async def postgres_sessions_ended(stage: Stage, _: Random) -> None:
    """As a failover or an administrator does it."""
    async with _administrator(stage) as connection:
        await connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")


async def postgres_locked(stage: Stage, random: Random) -> None:
    """A migration that takes its time: statements wait."""
    async with _administrator(stage) as connection, connection.transaction():
        await connection.execute("lock table runs in access exclusive mode")
        await asyncio.sleep(random.uniform(0.3, 2))


async def provider_unreachable(stage: Stage, random: Random) -> None:
    async with _all_or_one(stage.links_of("provider"), random, Proxy.cut):
        await asyncio.sleep(random.uniform(0.2, 1))


async def provider_stalled(stage: Stage, random: Random) -> None:
    async with _all_or_one(stage.links_of("provider"), random, Proxy.stall):
        await asyncio.sleep(random.uniform(0.5, 2.5))


async def connections_reset(stage: Stage, random: Random) -> None:
    """All of one kind at once: to Redis, to Postgres, to the provider, or the clients' own."""
    fronts = [place.front for place in stage.apis if place.front]
    kinds = [stage.links_of("redis"), stage.links_of("postgres"), stage.links_of("provider"), fronts]
    for _ in range(random.randint(1, 3)):
        for link in random.choice(kinds):
            await asyncio.to_thread(link.reset)
        await asyncio.sleep(random.uniform(0, 0.5))


async def worker_killed_and_redis_flushed(stage: Stage, random: Random) -> None:
    async with stage.one_of(stage.workers, random) as place:
        await stage.kill(place)
        await _tell_redis(stage, "FLUSHALL")
        await stage.occupy(place)


async def everything_restarted(stage: Stage, random: Random) -> None:
    """The machine's power fails."""
    async with stage.redis_busy, stage.postgres_busy:
        for place in stage.places:
            await place.busy.acquire()
        try:
            await asyncio.gather(*(stage.kill(place) for place in stage.places))
            await stage.of_servers(stage.stack.valkey.kill)
            await stage.of_servers(stage.postgres.kill)
            await stage.of_servers(stage.postgres.start)
            await stage.of_servers(stage.stack.valkey.start)
            await asyncio.gather(*(stage.occupy(place) for place in stage.places))
        finally:
            for place in stage.places:
                place.busy.release()


FAULTS: tuple[Fault, ...] = (
    worker_killed,
    api_killed,
    worker_deployed,
    api_deployed,
    worker_stopped_past_its_lease,
    api_stopped_for_a_while,
    redis_flushed,
    redis_killed,
    redis_frozen,
    redis_full,
    redis_unreachable,
    redis_stalled,
    postgres_crashed,
    postgres_unreachable,
    postgres_stalled,
    postgres_sessions_ended,
    postgres_locked,
    provider_unreachable,
    provider_stalled,
    connections_reset,
    worker_killed_and_redis_flushed,
    everything_restarted,
)


def named(fault: Fault) -> str:
    return fault.__name__.replace("_", " ")


@asynccontextmanager
async def _administrator(stage: Stage) -> AsyncIterator[asyncpg.Connection]:
    async with stage.postgres_busy:
        connection = await asyncpg.connect(stage.postgres.url, timeout=DEADLINE, command_timeout=DEADLINE)
        try:
            yield connection
        finally:
            await connection.close()


async def _tell_redis(stage: Stage, *command: str | int) -> None:
    """Straight, behind the proxies; while it is down there is nobody to tell."""

    def tell() -> None:
        with redis.Redis.from_url(stage.stack.redis_url, socket_timeout=DEADLINE) as client:
            client.execute_command(*command)

    try:
        await asyncio.to_thread(tell)
    except redis.ConnectionError:
        return


@asynccontextmanager
async def _all_or_one(links: list[Proxy], random: Random, break_: Callable[[Proxy], None]) -> AsyncIterator[None]:
    """Break every link, or that of one process alone."""
    broken = links if random.random() < 0.5 else [random.choice(links)]
    for link in broken:
        await asyncio.to_thread(break_, link)
    try:
        yield
    finally:
        for link in broken:
            await asyncio.to_thread(link.mend)
