"""What is left when the storm is over: by plain SQL, Redis' own commands and the provider's record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import psutil
import redis
from tests.chaos.clients import Told
from tests.chaos.stage import COUNTED, Stage

DEADLINE = 60
POLL = 0.1
GIVEN_UP = 90
"""Seconds in which what is reserved for a run that was never written is given back: a minute, and a look or two."""
_RUNS = """
select id, status, attempt, max_attempts, worker, finished_at, idempotency_key, output, reasoning,
       tool_calls, transcript, error, cancel_requested_at, (metadata ->> 'ask')::int as ask
  from runs
"""
_ATTEMPTS = """
select run_id, attempt, outcome, worker, extract(epoch from started_at)::float as began, ended_at
  from attempts
 order by run_id, attempt
"""


_SPENT = """
select coalesce(sum(input_tokens + output_tokens), 0)::bigint from ledger
 where made_at >= date_trunc('month', now(), 'UTC')
"""


@dataclass(frozen=True)
class Counted:
    """What an API process says of the tenant's tokens, in this month."""

    used: int
    reserved: int


@dataclass(frozen=True)
class Key:
    """One of Redis' keys. `ttl` is in ms, negative where it has none."""

    name: str
    ttl: int

    @property
    def of_a_run(self) -> bool:
        """The log of a run, which outlives it by a while."""
        return self.name.startswith("runstream:run:")

    @property
    def of_processes(self) -> bool:
        """A sign of a process's life, or that one has looked just now: set anew as long as there are processes."""
        return self.name.endswith(":health-check") or self.name.startswith("runstream:looked:")

    @property
    def of_limits(self) -> bool:
        """A tenant's counters: there as long as they are good, but for what is reserved."""
        return self.name.startswith("runstream:limits:") and not self.name.endswith((":open", ":reserved", ":pending"))

    @property
    def of_all_tenants(self) -> bool:
        """There is one of it, and it stays."""
        return self.name == "runstream:tenants-with-limits"


@dataclass(frozen=True)
class Evidence:
    told: list[Told]
    runs: list[asyncpg.Record]
    attempts: list[asyncpg.Record]
    calls: list[dict[str, Any]]
    calls_made: int
    provider: dict[str, Any]
    keys: list[Key]
    streams: int
    """Connections of clients that API processes still hold."""
    outputs: dict[str, str]
    living: dict[str, bool]
    spent: int
    """Tokens, as the ledger has them."""
    counted: list[Counted]
    """By each API process."""


async def gather(stage: Stage, told: list[Told]) -> Evidence:
    """After the clients have gone; waits a little for what takes its time to be let go of."""
    runs = await _rows(stage, _RUNS)
    await _until(lambda: not _provider(stage, "stats")["open_streams"])
    await _until(lambda: not _client_connections(stage))
    (spent,) = (await _rows(stage, _SPENT))[0]
    await _until(lambda: _counted(stage) == [Counted(spent, 0)] * len(stage.urls), GIVEN_UP)
    await _until(lambda: all(key.of_a_run or key.of_processes or key.of_limits for key in _keys(stage)))
    record = _provider(stage, "calls")
    return Evidence(
        told=told,
        runs=runs,
        attempts=await _rows(stage, _ATTEMPTS),
        calls=record["calls"],
        calls_made=record["made"],
        provider=_provider(stage, "stats"),
        keys=_keys(stage),
        streams=_client_connections(stage),
        outputs=stage.stack.outputs(),
        living={place.name: place.process.alive for place in stage.places},
        spent=spent,
        counted=_counted(stage),
    )


async def unended(stage: Stage) -> list[tuple[str, str]]:
    """The runs that are still under way, and their status."""
    return [tuple(row) for row in await _rows(stage, "select id, status from runs where finished_at is null")]


async def _rows(stage: Stage, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(stage.postgres.url, timeout=DEADLINE, command_timeout=DEADLINE)
    try:
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        return await connection.fetch(query)
    finally:
        await connection.close()


async def _until(true: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for it; what is not so in the end is for the oracle to say."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await asyncio.to_thread(true) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(POLL)


def _provider(stage: Stage, what: str) -> dict[str, Any]:
    return httpx.get(f"{stage.stack.provider_origin}/{what}", timeout=DEADLINE).raise_for_status().json()


def _counted(stage: Stage) -> list[Counted]:
    counted = []
    for url in stage.urls:
        bearing = {"Authorization": f"Bearer {stage.stack.key}"}
        told = httpx.get(f"{url}/v1/limits", headers=bearing, timeout=DEADLINE).raise_for_status().json()["data"]
        (limit,) = [each for each in told if each["name"] == f"tenant.{COUNTED}"]
        counted.append(Counted(limit["used"], limit["reserved"]))
    return counted


def _redis(stage: Stage, ask: Callable[[redis.Redis], Any]) -> Any:
    with redis.Redis.from_url(stage.stack.redis_url, socket_timeout=DEADLINE, decode_responses=True) as client:
        return ask(client)


GONE = -2
"""Redis's answer for a key that has gone since it was listed."""


def _keys(stage: Stage) -> list[Key]:
    def read(client: redis.Redis) -> list[Key]:
        found = [Key(name, client.pttl(name)) for name in client.scan_iter(count=1000)]
        return [key for key in found if key.ttl != GONE]

    return _redis(stage, read)


def _client_connections(stage: Stage) -> int:
    """Connections that came in at the API processes' own ports and still stand."""
    count = 0
    for place in stage.apis:
        connections = psutil.Process(place.process.pid).net_connections("tcp")
        ports = {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}
        count += sum(each.status == psutil.CONN_ESTABLISHED and each.laddr.port in ports for each in connections)
    return count
