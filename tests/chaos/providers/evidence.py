"""What is left when the storm is over: the tables, what the API tells of spend, and each provider's own record."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import aiohttp
import asyncpg
from tests.chaos.providers.clients import Told
from tests.chaos.providers.scene import Scene

DEADLINE = 60
POLL = 0.1
_RUNS = "select * from runs"
_ATTEMPTS = "select run_id, attempt, outcome, error, ended_at from attempts order by run_id, attempt"
_LEDGER = "select * from ledger order by run_id, attempt, call"
_SUMS = """
select count(*) as calls, coalesce(sum(input_tokens), 0) as input, coalesce(sum(output_tokens), 0) as output,
       coalesce(sum(cost), 0) as cost
  from ledger
"""

Row = dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    told: list[Told]
    runs: dict[str, Row]
    attempts: dict[str, list[Row]]
    ledger: dict[str, list[Row]]
    sums: Row
    """Of the whole ledger."""
    usage: dict[str, Any]
    """The same, as the API tells it."""
    limits: dict[str, dict[str, Any]]
    calls: dict[str, list[dict[str, Any]]]
    """The simulated provider's record, by model."""
    stats: dict[str, Any]
    requests: Counter[str]
    """What other people's servers were asked, by model."""
    outputs: dict[str, str]


async def gather(scene: Scene, http: aiohttp.ClientSession, told: list[Told]) -> Evidence:
    """After the last client; waits a little for calls to be closed and counters to be settled."""
    stack = scene.stack
    await _until(lambda: _settled(http, stack.url))
    stats = await _until(lambda: _no_open_streams(http, stack.provider_origin))
    calls = defaultdict(list)
    record = await _json(http, f"{stack.provider_origin}/calls")
    assert record["made"] == len(record["calls"])
    for call in record["calls"]:
        calls[call["model"]].append(call)
    connection = await asyncpg.connect(stack.database_url, timeout=DEADLINE, command_timeout=DEADLINE)
    try:
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        runs, attempts, ledger, (sums,) = [
            [dict(row) for row in await connection.fetch(query)] for query in (_RUNS, _ATTEMPTS, _LEDGER, _SUMS)
        ]
    finally:
        await connection.close()
    return Evidence(
        told=told,
        runs={run["id"]: run for run in runs},
        attempts=_by_run(attempts),
        ledger=_by_run(ledger),
        sums=sums,
        usage=(await _json(http, f"{stack.url}/v1/usage"))["data"][0],
        limits=await _limits(http, stack.url),
        calls=dict(calls),
        stats=stats or {},
        requests=sum((Counter(server.requests()) for server in scene.foreign.values()), Counter()),
        outputs=stack.outputs(),
    )


def _by_run(rows: list[Row]) -> dict[str, list[Row]]:
    by_run: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_run[row["run_id"]].append(row)
    return dict(by_run)


async def _json(http: aiohttp.ClientSession, url: str) -> Any:
    async with http.get(url) as answer:
        answer.raise_for_status()
        return await answer.json()


async def _limits(http: aiohttp.ClientSession, url: str) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in (await _json(http, f"{url}/v1/limits"))["data"]}


async def _settled(http: aiohttp.ClientSession, url: str) -> bool:
    return all(float(each["reserved"]) == 0 for each in (await _limits(http, url)).values())


async def _no_open_streams(http: aiohttp.ClientSession, url: str) -> dict[str, Any] | None:
    stats = await _json(http, f"{url}/stats")
    return None if stats["open_streams"] else stats


async def _until(ask: Any, seconds: float = 20) -> Any:
    """Wait for it; what is not so in the end is for the oracle to say."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (answer := await ask()) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(POLL)
    return answer
