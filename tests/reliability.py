"""What tests of reliability say again and again: who reads, what the tables and Redis hold, what is waited for."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import redis

from caller import Caller
from runstream.providers.simulated.tokens import unicode_token
from stack import Process, Stack
from viewer import DEADLINE, Viewer
from waiting import until

MakeStack = Callable[..., Stack]
SHORT_LEASES = {"lease": "1.5", "lease_interval": "0.3", "sweep_interval": "0.3", "heartbeat": "0.5"}
"""Where it does not matter how long recovery takes by default."""


@asynccontextmanager
async def reading(stack: Stack, caller: Caller, run_id: str, *, url: str | None = None) -> AsyncIterator[Viewer]:
    """A viewer that reads the run to its end meanwhile, and goes on at another API process when one is gone."""
    async with (
        Viewer(caller.key, run_id) as viewer,
        viewer.reading(lambda: url or random.choice(stack.urls)),
    ):
        yield viewer


@asynccontextmanager
async def user(stack: Stack) -> AsyncIterator[Caller]:
    async with Caller(stack.url, stack.key, "acme", "ada") as caller:
        yield caller


def unicode_text(count: int) -> str:
    return "".join(map(unicode_token, range(count)))


def flush(stack: Stack) -> None:
    with redis.Redis.from_url(stack.redis_url, socket_timeout=DEADLINE) as client:
        client.flushall()


def logged(stack: Stack, run_id: str) -> list[tuple[str, str]]:
    """The id and the type of each entry in the run's stream, read without the product."""
    with redis.Redis.from_url(stack.redis_url, socket_timeout=DEADLINE) as client:
        entries = client.xrange(f"runstream:run:{run_id}")
    return [(entry_id.decode(), fields[b"e"].split(b" ", 2)[1].decode()) for entry_id, fields in entries]


def jobs(stack: Stack) -> list[str]:
    """All that Redis keeps of jobs: of those that wait, and of those that were taken."""
    with redis.Redis.from_url(stack.redis_url, socket_timeout=DEADLINE, decode_responses=True) as client:
        names = client.scan_iter(count=1000)
        return [
            name
            for name in names
            if name.startswith(("runstream:queue:", "arq:", "runstream:taken:")) and not name.endswith(":health-check")
        ]


async def rows(stack: Stack, query: str, *arguments: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(stack.database_url, timeout=DEADLINE, command_timeout=DEADLINE)
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close()


async def worker_of(stack: Stack, run_id: str) -> Process:
    """Whose the run is."""
    ((name,),) = await rows(stack, "select worker from runs where id = $1", run_id)
    return next(process for process in stack.workers if name in process.output())


async def outcomes(stack: Stack, run_id: str) -> list[str]:
    """Of each attempt, in order."""
    query = "select outcome from attempts where run_id = $1 order by attempt"
    return [row["outcome"] for row in await rows(stack, query, run_id)]


async def until_status(stack: Stack, run_id: str, status: str) -> None:
    async def is_so() -> bool:
        return (await rows(stack, "select status from runs where id = $1", run_id))[0][0] == status

    await until(is_so, status)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def assert_told_the_same_after_the_end(stack: Stack, caller: Caller, viewer: Viewer) -> None:
    """Who comes now is told the attempt, what it said and the end that the viewer was told."""
    for url in stack.urls:
        async with Viewer(caller.key, viewer.run_id) as late:
            await late.read(url)
            assert (late.cursor, late.said, late.end) == (viewer.cursor, viewer.said, viewer.end)
