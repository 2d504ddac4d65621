"""One measurement: one system under one scenario."""

import asyncio
import gc
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from tests.bench.clients import Client
from tests.bench.load import Exchange, ExchangeFailed, Reader
from tests.bench.meter import cpu_seconds, others_cpu_seconds, rss_bytes
from tests.bench.processes import SystemFailed
from tests.bench.scenarios import IdleReaders, Scenario, Streams
from tests.bench.systems import Bench, Running, System

WARM_UP = Streams("warm-up", "20 streams x 50 tokens", 20, 50, 200, ramp=0.2)
WARM_UP_DEADLINE_S = 20
DEADLINE_S = 120
SETTLE_S = 2.0
LONGEST_PAUSE_S = 0.5

Figures = dict[str, float]


async def measure(system: System, scenario: Scenario, bench: Bench) -> Figures:
    """Start the system on emptied services, warm it up, and take the scenario's figures."""
    await bench.services.empty_redis()
    async with system.running(bench) as running:
        await warm_up(running.client)
        if isinstance(scenario, IdleReaders):
            return await measure_idle(running, scenario)
        return await measure_streams(running, scenario, bench)


async def warm_up(client: Client) -> None:
    try:
        async with asyncio.timeout(WARM_UP_DEADLINE_S):
            readers = await run_streams(client, WARM_UP)
    except TimeoutError:
        raise SystemFailed(f"the first streams did not end within {WARM_UP_DEADLINE_S} s") from None
    if not all(reader.first for reader in readers):
        raise SystemFailed("the first streams brought no token")


async def measure_streams(running: Running, scenario: Streams, bench: Bench) -> Figures:
    own, shared, others = cpu_seconds(running.processes), cpu_seconds(bench.services.processes), others_cpu_seconds()
    began = time.monotonic()
    with no_garbage_collection():
        readers = await run_streams(running.client, scenario)
    took = time.monotonic() - began
    own, shared = cpu_seconds(running.processes) - own, cpu_seconds(bench.services.processes) - shared
    others = others_cpu_seconds() - others
    tokens = sum(len(reader.ages) for reader in readers)
    first = [reader.first - reader.sent for reader in readers if reader.first is not None]
    ages = [age for reader in readers for age in reader.ages]
    return {
        "streams": scenario.streams,
        "complete": sum(reader.holds(scenario.tokens) for reader in readers),
        "first_token_p50_ms": percentile(first, 0.5),
        "first_token_p99_ms": percentile(first, 0.99),
        "token_age_p50_ms": percentile(ages, 0.5),
        "token_age_p99_ms": percentile(ages, 0.99),
        "cpu_us_per_token": own * 1e6 / max(tokens, 1),
        "services_cpu_us_per_token": shared * 1e6 / max(tokens, 1),
        "tokens_per_s": tokens / took,
        "rss_mb": rss_bytes(running.processes) / 1e6,
        "others_cpu_percent": max(0.0, others) * 100 / took / (os.cpu_count() or 1),
    }


async def run_streams(client: Client, scenario: Streams) -> list[Reader]:
    """All the scenario's runs, read to their ends; a stream that fails leaves a reader that holds less."""
    if scenario.sequential:
        return await run_in_turn(client, scenario)
    readers: list[Reader] = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as streams:
        for number in range(scenario.streams):
            await asyncio.sleep(began + number * scenario.ramp / scenario.streams - loop.time())
            readers.append(Reader())
            streams.create_task(run_one(client, scenario.model, readers[-1]))
    return readers


async def run_in_turn(client: Client, scenario: Streams) -> list[Reader]:
    """The pauses are the same for every system, and drawn so that no poll of theirs can fall in step."""
    pauses = random.Random(1)
    readers = []
    for _ in range(scenario.streams):
        await asyncio.sleep(pauses.uniform(0, LONGEST_PAUSE_S))
        readers.append(Reader())
        await run_one(client, scenario.model, readers[-1])
    return readers


async def run_one(client: Client, model: str, reader: Reader) -> None:
    try:
        async with asyncio.timeout(DEADLINE_S):
            await client.run(model, reader)
    except (ExchangeFailed, OSError, TimeoutError) as failure:
        print(f"a stream failed: {type(failure).__name__} {failure}", file=sys.stderr)


async def measure_idle(running: Running, scenario: IdleReaders) -> Figures:
    """How much the process that holds them grows by the readers; the runs go on before and after."""
    runs = [await running.client.begin(scenario.model) for _ in range(scenario.readers)]
    await asyncio.sleep(SETTLE_S)
    before = rss_bytes([running.api])
    async with readers_of(running.client, runs) as readers:
        await asyncio.sleep(SETTLE_S)
        grown = rss_bytes([running.api]) - before
        still_open = sum(not reader.closed.done() for reader in readers)
    return {"streams": scenario.readers, "complete": still_open, "reader_kb": grown / scenario.readers / 1e3}


@asynccontextmanager
async def readers_of(client: Client, runs: Sequence[str]) -> AsyncIterator[list[Exchange]]:
    readers: list[Exchange] = []
    try:
        async with asyncio.timeout(DEADLINE_S):
            for run in runs:
                readers.append(await client.join(run))
        yield readers
    finally:
        for reader in readers:
            reader.abandon()


def percentile(values: Iterable[int], part: float) -> float:
    """Of microseconds, in milliseconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] / 1e3 if ordered else float("nan")


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A collection in the load client would be seen as every system's worst token."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
