"""The storm: clients at a steady pace, faults in lanes beside each other, then calm, and the judgement."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.chaos.asks import draw_asks
from tests.chaos.clients import Clients, Told
from tests.chaos.evidence import gather, unended
from tests.chaos.faults import FAULTS, Fault, named
from tests.chaos.models import draw_kinds
from tests.chaos.oracle import judge
from tests.chaos.report import Report
from tests.chaos.stage import Stage, standing

LANES = 2
"""Faults that are under way at the same time."""
CALM = (0.3, 1.2)
"""Seconds between two faults of a lane."""
OPEN = 300
"""Requests that clients have under way at a time."""
END_DEADLINE = 60
"""Seconds that runs and readers have to come to their end once all stands again."""


class Storm:
    """`rate` is the number of requests a second. `tell` is told how it goes.

    What the processes say is left in `keep`.
    """

    def __init__(
        self, *, seed: int, runs: int, rate: float, tell: Callable[[str], None], keep: Path | None = None
    ) -> None:
        self._seed = seed
        self._asks = list(draw_asks(seed, draw_kinds(Random(f"{seed} kinds"), runs)))
        self._rate = rate
        self._tell = tell
        self._keep = keep
        self._told = [Told(ask) for ask in self._asks]
        self._faults: Counter[str] = Counter()
        self._open = asyncio.Semaphore(OPEN)

    async def run(self) -> Report:
        began = time.monotonic()
        self._tell(f"seed {self._seed}: {len(self._asks)} runs")
        async with standing(self._keep) as stage:
            async with Clients(stage.urls, stage.stack.key) as clients:
                unfinished = await self._blow(stage, clients)
                waited = await _until_ended(stage)
            evidence = await gather(stage, self._told)
        return Report.of(
            evidence,
            judge(evidence),
            seed=self._seed,
            faults=self._faults,
            unfinished=unfinished,
            seconds=time.monotonic() - began,
            drained_in=waited,
        )

    async def _blow(self, stage: Stage, clients: Clients) -> int:
        """Until all was asked and each fault has come; answers how many clients were not done in time."""
        using: list[asyncio.Task[None]] = []
        faults = _faults(Random(f"{self._seed} faults"))
        asking = asyncio.create_task(self._ask(clients, using))
        lanes = [asyncio.create_task(self._lane(stage, faults, lane, asking)) for lane in range(LANES)]
        telling = asyncio.create_task(self._keep_telling(using))
        try:
            await asyncio.gather(asking, *lanes)
            self._tell("calm")
            _, late = await asyncio.wait(using, timeout=END_DEADLINE)
        finally:
            for task in (asking, telling, *lanes, *using):
                task.cancel()
        for task in using:
            if task not in late:
                task.result()
        return len(late)

    async def _ask(self, clients: Clients, using: list[asyncio.Task[None]]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number, told in enumerate(self._told):
            await asyncio.sleep(max(0.0, began + number / self._rate - loop.time()))
            await self._open.acquire()
            task = asyncio.create_task(clients.use(told))
            task.add_done_callback(lambda _: self._open.release())
            using.append(task)

    async def _lane(self, stage: Stage, faults: Iterator[Fault], lane: int, asking: asyncio.Task[None]) -> None:
        random = Random(f"{self._seed} lane {lane}")
        while not asking.done() or len(self._faults) < len(FAULTS):
            fault = next(faults)
            self._faults[named(fault)] += 1
            await fault(stage, random)
            await asyncio.sleep(random.uniform(*CALM))

    async def _keep_telling(self, using: list[asyncio.Task[None]]) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(5)
            done = sum(task.done() for task in using)
            wrongs = [wrong for told in self._told for wrong in told.wrongs]
            self._tell(
                f"{time.monotonic() - began:5.0f} s: {len(using)} asked, {done} done, "
                f"{self._faults.total()} faults, {len(wrongs)} wrong {wrongs[:1]}"
            )


def _faults(random: Random) -> Iterator[Fault]:
    """Each once in every round, each round in another order."""
    while True:
        yield from random.sample(FAULTS, len(FAULTS))


async def _until_ended(stage: Stage) -> float:
    """Seconds until no run was under way any more, at most the deadline."""
    began = time.monotonic()
    with suppress(TimeoutError):
        async with asyncio.timeout(END_DEADLINE):
            while await unended(stage):
                await asyncio.sleep(0.1)
    return time.monotonic() - began
