"""The storm: requests at a steady pace, each for a model whose targets fail as its case says, and the judgement."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import aiohttp
from tests.chaos.oracle import Wrong
from tests.chaos.providers.cases import cases, draw
from tests.chaos.providers.clients import TIMEOUT, Told, use
from tests.chaos.providers.evidence import Evidence, Row, gather
from tests.chaos.providers.oracle import judge
from tests.chaos.providers.scene import Scene, standing

OPEN = 200
"""Requests that are under way at a time."""
END_DEADLINE = 60
"""Seconds that clients have to be done once all was asked."""
SHOWN = 20


@dataclass(frozen=True)
class Report:
    seed: int
    seconds: float
    with_aimock: bool
    evidence: Evidence
    wrongs: list[Wrong]
    unfinished: int

    @property
    def right(self) -> bool:
        return not self.wrongs and not self.unfinished

    def __str__(self) -> str:
        evidence = self.evidence
        lines = [line for each in evidence.ledger.values() for line in each]
        sent = [call for calls in evidence.calls.values() for call in calls]
        exact = [line for line in lines if not line["estimated"] and line["provider"].startswith("simulated")]
        counted = {
            "runs": len(evidence.runs),
            "calls on the providers' records": len(sent) + evidence.requests.total(),
            "of them other people's servers": evidence.requests.total(),
            "lines of the ledger": len(lines),
            "lines by estimate": sum(line["estimated"] for line in lines),
            "tokens that the ledger has, reported by the simulated provider": _tokens(exact),
            "tokens that the ledger has in all": _tokens(lines),
            "tokens that the simulated provider read and sent": sum(evidence.stats["tokens"].values()),
            "clients that dropped": sum(told.dropped for told in evidence.told),
            "wrong": len(self.wrongs),
            "clients that were not done in time": self.unfinished,
        }
        ends = Counter(_end(run) for run in evidence.runs.values())
        return "\n".join(
            [
                f"seed {self.seed}, {self.seconds:.0f} s" + ("" if self.with_aimock else ", without aimock: no Node"),
                *(f"  {name}: {count:,}" for name, count in {**counted, **dict(sorted(ends.items()))}.items()),
                *(f"  WRONG {wrong.kind}: {wrong.what}" for wrong in self.wrongs[:SHOWN]),
            ]
        )


class Storm:
    """`rate` is the number of requests a second; `calls` are those that providers are to get, at the least.

    What the processes say is left in `keep`. `tell` is told how it goes.
    """

    def __init__(
        self, *, seed: int, calls: int, rate: float, tell: Callable[[str], None], keep: Path | None = None
    ) -> None:
        self._seed = seed
        self._rate = rate
        self._tell = tell
        self._keep = keep
        self._with_aimock = shutil.which("node") is not None
        self._cases = cases(with_aimock=self._with_aimock)
        drawn = draw(Random(f"{seed} cases"), self._cases, calls)
        self._told = [Told(number, f"seed-{seed}", case) for number, case in enumerate(drawn)]

    def standing(self) -> AbstractContextManager[Scene]:
        return standing(self._cases, with_aimock=self._with_aimock, keep=self._keep)

    async def run(self, scene: Scene) -> Report:
        began = time.monotonic()
        self._tell(f"seed {self._seed}: {len(self._told)} runs of {len({told.case for told in self._told})} cases")
        for told in self._told:
            scene.tell(told.model, told.case)
        headers = {"Authorization": f"Bearer {scene.stack.key}"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=headers, timeout=TIMEOUT, connector=connector) as http:
            unfinished = await self._ask(http, scene.stack.url)
            evidence = await gather(scene, http, self._told)
        seconds = time.monotonic() - began
        return Report(self._seed, seconds, self._with_aimock, evidence, judge(evidence), unfinished)

    async def _ask(self, http: aiohttp.ClientSession, url: str) -> int:
        """All of them; answers how many clients were not done in time."""
        open_, loop = asyncio.Semaphore(OPEN), asyncio.get_running_loop()
        using: list[asyncio.Task[None]] = []
        began = loop.time()
        for number, told in enumerate(self._told):
            await asyncio.sleep(max(0.0, began + number / self._rate - loop.time()))
            await open_.acquire()
            using.append(asyncio.create_task(use(http, url, told)))
            using[-1].add_done_callback(lambda _: open_.release())
            if number % 200 == 199:
                done, wrongs = sum(task.done() for task in using), [told.wrong for told in self._told if told.wrong]
                self._tell(f"{loop.time() - began:5.0f} s: {len(using)} asked, {done} done, {wrongs[:1]}")
        _, late = await asyncio.wait(using, timeout=END_DEADLINE)
        for task in late:
            task.cancel()
        for task in set(using) - late:
            task.result()
        return len(late)


def _tokens(lines: list[Row]) -> int:
    return sum(line["input_tokens"] + line["output_tokens"] for line in lines)


def _end(run: Row) -> str:
    return f"ended {run['status']}" + (f" {run['error']['code']}" if run["error"] else "")
