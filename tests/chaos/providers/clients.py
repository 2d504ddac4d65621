"""The clients: each asks for a run, reads it from its first event on, and may drop and come back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
from tests.chaos.providers.cases import Case
from tests.viewer import Said, Viewer

TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=60)
DROPS = 0.25


class Reading(Viewer):
    """Keeps what each attempt has said, those that are void too."""

    def __init__(self) -> None:
        super().__init__("", "")
        self.void: dict[int, Said] = {}

    def _event(self, attempt: int, position: int, type_: str, data: dict[str, Any]) -> None:
        before, said = self.attempt, self.said
        super()._event(attempt, position, type_, data)
        if before and attempt != before:
            self.void[before] = said


@dataclass
class Told:
    """A request, and what its client was told."""

    number: int
    seed: int
    case: Case
    run_id: str = ""
    reading: Reading = field(default_factory=Reading)
    dropped: bool = False
    wrong: str = ""

    @property
    def model(self) -> str:
        """What is asked for: a name that no other request has."""
        return f"{self.case.name}.{self.number}"

    @property
    def prompt(self) -> str:
        return f"asked {self.seed} {self.number}"


async def use(http: aiohttp.ClientSession, url: str, told: Told) -> None:
    """Ask, and read to the end."""
    random = Random(f"{told.seed} {told.number}")
    given: dict[str, Any] = {"messages": [{"role": "user", "content": told.prompt}]}
    if told.case.limit is not None:
        given["max_output_tokens"] = told.case.limit
    asked = {"feature": "chat", "model": told.model, "input": given}
    cut_after = random.randint(200, 1500) if random.random() < DROPS else None
    headers = {"Accept": "text/event-stream", "Idempotency-Key": told.model}
    while told.reading.end is None and not told.wrong:
        try:
            if not told.run_id:
                async with http.post(f"{url}/v1/runs", json=asked, headers=headers) as answer:
                    if answer.status != 200:
                        told.wrong = f"was answered {answer.status}: {(await answer.text())[:200]}"
                        return
                    told.run_id = answer.headers["Location"].rpartition("/")[2]
                    await _take(answer, told, cut_after)
            else:
                after = {"Last-Event-ID": told.reading.cursor} if told.reading.attempt else {}
                async with http.get(f"{url}/v1/runs/{told.run_id}/events", headers=after) as answer:
                    await _take(answer, told, None)
        except (aiohttp.ClientError, TimeoutError):  # a kept connection that was closed as it was used
            told.dropped = True
        await asyncio.sleep(random.uniform(0.05, 0.4))


async def _take(answer: aiohttp.ClientResponse, told: Told, cut_after: int | None) -> None:
    unread, size = b"", 0
    async for data in answer.content.iter_any():
        size += len(data)
        *blocks, unread = (unread + data).split(b"\n\n")
        for block in blocks:
            try:
                told.reading.take(block.decode())
            except AssertionError as wrong:
                told.wrong = f"was told {block[:200]!r} at {told.reading.cursor}: {wrong}"
                return
        if cut_after is not None and size >= cut_after and told.reading.end is None:
            told.dropped = True
            answer.close()
            return
