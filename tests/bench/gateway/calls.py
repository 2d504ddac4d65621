"""The load: many short calls, in blocks at which the systems take turns, so that all of them meet the same noise."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.bench.load import Reader, now_us
from tests.bench.measure import Figures, no_garbage_collection, percentile, run_one
from tests.bench.meter import cpu_seconds, others_cpu_seconds, rss_bytes
from tests.bench.processes import SystemFailed
from tests.bench.systems import Bench, Running

TOKENS = 20
MODEL = f"sim:{TOKENS}:0"
WARM_UP_CALLS = 200
SETTLE_S = 0.2
"""For what a system still does about calls that have been answered."""


@dataclass(frozen=True)
class Calls:
    """`blocks` of so many `calls` each; `at_once` of them are under way, another one as soon as one has ended."""

    name: str
    title: str
    blocks: int
    calls: int
    at_once: int


ALONE = Calls("alone", "one after another", 20, 50, 1)
TOGETHER = Calls("together", "16 at once", 20, 500, 16)
FULL = (ALONE, TOGETHER)
QUICK = (Calls("alone", ALONE.title, 6, 50, 1), Calls("together", TOGETHER.title, 4, 250, 16))

Taken = dict[tuple[str, str], list[Figures]]


@dataclass
class Finished:
    """One call, as its client saw it."""

    reader: Reader
    took_us: int


async def measure(
    running: Mapping[str, tuple[Running, Bench]],
    taken: Taken,
    memory: dict[str, tuple[float, float]],
    loads: tuple[Calls, ...],
    tell: Callable[[str], None],
) -> None:
    """All loads in turn; `memory` is of all of them together, in MB before and after."""
    for name, (system, _) in running.items():
        warm = await make(system, WARM_UP_CALLS, 16)
        if not all(call.reader.holds(TOKENS) for call in warm):
            raise SystemFailed(f"{name} does not answer its first calls as it should")
    before = {name: rss_bytes(system.processes) / 1e6 for name, (system, _) in running.items()}
    for load in loads:
        turns = list(running.items())
        for block in range(load.blocks):
            for name, (system, bench) in turns:
                figures = await measure_block(system, bench, load)
                taken[load.name, name].append(figures)
                told = ", ".join(f"{each} {value:.5g}" for each, value in figures.items())
                tell(f"{load.name} {block + 1}, {name}: {told}")
            turns = [*turns[1:], *turns[:1]]
    for name, (system, _) in running.items():
        memory[name] = before[name], rss_bytes(system.processes) / 1e6


async def measure_block(running: Running, bench: Bench, load: Calls) -> Figures:
    own, shared, others = cpu_seconds(running.processes), cpu_seconds(bench.services.processes), others_cpu_seconds()
    began = time.monotonic()
    with no_garbage_collection():
        calls = await make(running, load.calls, load.at_once)
    took = time.monotonic() - began
    await asyncio.sleep(SETTLE_S)
    own, shared = cpu_seconds(running.processes) - own, cpu_seconds(bench.services.processes) - shared
    others = others_cpu_seconds() - others
    first = [call.reader.first - call.reader.sent for call in calls if call.reader.first is not None]
    return {
        "calls": load.calls,
        "complete": sum(call.reader.holds(TOKENS) for call in calls),
        "first_token_ms": percentile(first, 0.5),
        "call_ms": percentile([call.took_us for call in calls], 0.5),
        "cpu_us": own * 1e6 / load.calls,
        "services_cpu_us": shared * 1e6 / load.calls,
        "calls_per_s": load.calls / took,
        "others_cpu_percent": max(0.0, others) * 100 / (took + SETTLE_S) / (os.cpu_count() or 1),
    }


async def make(running: Running, calls: int, at_once: int) -> list[Finished]:
    finished: list[Finished] = []
    left = iter(range(calls))

    async def one_after_another() -> None:
        for _ in left:
            reader = Reader()
            await run_one(running.client, MODEL, reader)
            finished.append(Finished(reader, now_us() - reader.sent))

    async with asyncio.TaskGroup() as callers:
        for _ in range(at_once):
            callers.create_task(one_after_another())
    return finished
