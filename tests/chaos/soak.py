"""Memory of the API and the workers while runs are created, read and cancelled for a long time, without faults.

uv run python -m tests.chaos.soak --minutes 60 --streams 50
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from statistics import median

import psutil
import uvloop
from tests.chaos.asks import Ask, draw_asks
from tests.chaos.clients import Clients, Told
from tests.chaos.stage import Stage, standing

SAMPLES = 200
WARM_UP = 1 / 3
"""Of the time: pools fill, buffers and the allocator's arenas reach the size that the load needs."""
JUDGED = 1 / 5
"""Of the samples after the warm-up: the first ones are held against the last ones."""
ALLOWED = 0.10
MEGABYTE = 2**20


@dataclass(frozen=True)
class Soaked:
    """Samples of resident memory, in bytes, of each process."""

    seed: int
    memory: dict[str, list[int]]
    runs: int
    wrongs: list[str]

    def growth(self, name: str) -> float:
        """From the first samples after the warm-up to the last ones, as a part of the former."""
        samples = self.memory[name]
        settled = samples[int(len(samples) * WARM_UP) :]
        judged = max(1, int(len(settled) * JUDGED))
        return median(settled[-judged:]) / median(settled[:judged]) - 1

    def flat(self, allowed: float) -> bool:
        return not self.wrongs and all(self.growth(name) <= allowed for name in self.memory)

    def __str__(self) -> str:
        lines = [f"seed {self.seed}, {self.runs} runs, {len(self.wrongs)} wrong {self.wrongs[:3]}"]
        for name, samples in self.memory.items():
            shown = samples[:: max(1, len(samples) // 10)]
            sizes = " ".join(f"{size / MEGABYTE:.0f}" for size in (*shown, samples[-1]))
            lines.append(f"  {name}: {sizes} MB; {self.growth(name):+.1%} after the warm-up")
        return "\n".join(lines)


class Soak:
    def __init__(self, *, seed: int, seconds: float, streams: int, tell: Callable[[str], None]) -> None:
        self._seed = seed
        self._seconds = seconds
        self._streams = streams
        self._tell = tell
        self._asks = draw_asks(seed, cycle(("words", "unicode")))
        self._runs = 0
        self._wrongs: list[str] = []

    async def run(self) -> Soaked:
        async with standing() as stage, Clients(stage.urls, stage.stack.key) as clients:
            streams = [asyncio.create_task(self._stream(clients)) for _ in range(self._streams)]
            try:
                memory = await self._sample(stage)
            finally:
                for stream in streams:
                    stream.cancel()
            for stream in streams:
                if stream.done():
                    stream.result()
        return Soaked(self._seed, memory, self._runs, self._wrongs)

    async def _stream(self, clients: Clients) -> None:
        """One run after another, until cancelled."""
        while True:
            told = Told(self._next())
            await clients.use(told)
            self._runs += len(told.run_ids)
            self._wrongs += told.wrongs

    def _next(self) -> Ask:
        return next(self._asks)

    async def _sample(self, stage: Stage) -> dict[str, list[int]]:
        processes = {place.name: psutil.Process(place.process.pid) for place in stage.places}
        memory: dict[str, list[int]] = {name: [] for name in processes}
        for number, _ in enumerate(_ticks(self._seconds), start=1):
            await asyncio.sleep(self._seconds / SAMPLES)
            for name, process in processes.items():
                memory[name].append(process.memory_info().rss)
            if number % (SAMPLES // 20) == 0:
                sizes = ", ".join(f"{name} {samples[-1] / MEGABYTE:.0f} MB" for name, samples in memory.items())
                self._tell(f"{self._seconds * number / SAMPLES:6.0f} s: {self._runs} runs, {sizes}")
        return memory


def _ticks(seconds: float) -> Iterator[int]:
    """As many as samples are taken, fewer where the machine is too slow to take them in that time."""
    end = time.monotonic() + seconds
    for number in range(SAMPLES):
        if time.monotonic() > end:
            return
        yield number


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description="Memory over time.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    soak = Soak(seed=options.seed, seconds=options.minutes * 60, streams=options.streams, tell=tell)
    soaked = uvloop.run(soak.run())
    print(soaked)
    sys.exit(not soaked.flat(ALLOWED))


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
