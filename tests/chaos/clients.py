"""The clients: they ask, read, drop, come back elsewhere and cancel, and keep what they were told."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
from tests.chaos.asks import Ask
from tests.chaos.models import said
from tests.viewer import Viewer

ENDED = frozenset({"completed", "failed", "cancelled"})
UNDONE = frozenset({"run.failed", "run.cancelled"})
FAILURES = (aiohttp.ClientError, TimeoutError, OSError)
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=5)
"""A heartbeat comes every second: silence that is longer means that the process has gone."""
PAUSE = (0.05, 0.4)


@dataclass
class Told:
    """What the clients of one request were told."""

    ask: Ask
    run_ids: set[str] = field(default_factory=set)
    unanswered: int = 0
    """POSTs of which nobody knows whether they were accepted."""
    ends: set[str] = field(default_factory=set)
    """Statuses in which the run was said to have ended."""
    cancelled: bool = False
    tried_again: bool = False
    readings: list[Viewer] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)
    """What no server that keeps its promises says."""
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def run_id(self) -> str | None:
        return next(iter(self.run_ids), None)


class Clients:
    """Of one tenant; `async with Clients(urls, key) as clients`."""

    def __init__(self, urls: list[str], key: str) -> None:
        self._urls = urls
        self._key = key

    async def __aenter__(self) -> Clients:
        self._http = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._key}"},
            timeout=TIMEOUT,
            connector=aiohttp.TCPConnector(limit=0),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def use(self, told: Told) -> None:
        """Post, and do with the run what the ask says. Returns when all of it is done."""
        ask = told.ask
        readings = [Viewer(self._key, "") for _ in range(max(ask.readers, ask.streamed))]
        urls = ask.random("posts").sample(self._urls, ask.posts)
        await asyncio.gather(
            *(self._post(told, url, readings[0] if ask.streamed and url is urls[0] else None) for url in urls)
        )
        if told.run_id is not None:
            told.readings += readings
            await asyncio.gather(
                *(self._read(told, reading, ask.random(f"reader {n}")) for n, reading in enumerate(readings)),
                self._cancel(told),
            )
            if ask.again and any(reading.end and reading.end[0] in UNDONE for reading in readings):
                await self._try_again(told)
            if ask.late:
                told.readings.append(Viewer(self._key, ""))
                await self._read(told, told.readings[-1], ask.random("late"))

    async def _post(self, told: Told, url: str, reading: Viewer | None) -> None:
        """Until it is answered, where a key makes that safe; else once. With `reading`, it reads the answer."""
        random = told.ask.random("stream" if reading else "post")
        headers = {"Idempotency-Key": told.ask.key} if told.ask.key else {}
        if reading is not None:
            headers["Accept"] = "text/event-stream"
        while True:
            try:
                async with self._http.post(f"{url}/v1/runs", json=_body(told.ask), headers=headers) as answer:
                    if await self._accepted(told, answer, reading, random):
                        return
            except FAILURES:
                told.unanswered += told.run_id is None
                told.seen["POST unanswered"] += 1
            if told.ask.key is None or told.run_ids:
                return
            await asyncio.sleep(random.uniform(*PAUSE))
            url = random.choice(self._urls)

    async def _accepted(
        self, told: Told, answer: aiohttp.ClientResponse, reading: Viewer | None, random: Random
    ) -> bool:
        """Whether it was, or never will be."""
        told.seen[f"POST {answer.status}"] += 1
        if answer.status in {200, 202} and "Location" in answer.headers:
            told.run_ids.add(answer.headers["Location"].rpartition("/")[2])
            if reading is None:
                _note_end(told, await answer.json())
            else:
                await _take(told, answer, reading, _cut(random))
            return True
        if answer.status == 503 and "Retry-After" in answer.headers:
            told.unanswered += 1
        else:
            told.wrongs.append(f"POST was answered {answer.status}: {(await answer.text())[:200]}")
            return True
        return False

    async def _cancel(self, told: Told) -> None:
        if told.ask.cancel_after is None:
            return
        await asyncio.sleep(told.ask.cancel_after)
        told.cancelled = True
        random = told.ask.random("cancel")
        while True:
            url = f"{random.choice(self._urls)}/v1/runs/{told.run_id}/cancel"
            try:
                async with self._http.post(url) as answer:
                    told.seen[f"cancel {answer.status}"] += 1
                    if answer.status == 200:
                        _note_end(told, await answer.json())
                        return
                    if answer.status != 503:
                        told.wrongs.append(f"a cancel was answered {answer.status}: {(await answer.text())[:200]}")
                        return
            except FAILURES:
                told.seen["cancel unanswered"] += 1
            await asyncio.sleep(random.uniform(*PAUSE))

    async def _try_again(self, told: Told) -> None:
        """Until it is answered; then the readers go on from the end that they know to the one that is to come."""
        told.tried_again = True
        told.ends.clear()
        random = told.ask.random("again")
        while not told.wrongs:
            url = f"{random.choice(self._urls)}/v1/runs/{told.run_id}/retry"
            try:
                async with self._http.post(url) as answer:
                    told.seen[f"retry {answer.status}"] += 1
                    if answer.status in {202, 409}:  # the latter where an answer was lost on its way
                        break
                    if answer.status != 503:
                        told.wrongs.append(f"a retry was answered {answer.status}: {(await answer.text())[:200]}")
            except FAILURES:
                told.seen["retry unanswered"] += 1
            await asyncio.sleep(random.uniform(*PAUSE))
        for reading in told.readings:
            reading.end = None
        await asyncio.gather(*(self._read(told, reading, random) for reading in told.readings))

    async def _read(self, told: Told, reading: Viewer, random: Random) -> None:
        """One response after another, to the run's end or the first wrong."""
        while reading.end is None and not told.wrongs:
            url = f"{random.choice(self._urls)}/v1/runs/{told.run_id}/events"
            headers = {"Last-Event-ID": reading.cursor} if reading.attempt else {}
            pauses = len(reading.retries)
            try:
                async with self._http.get(url, headers=headers) as answer:
                    told.seen[f"events {answer.status}"] += 1
                    if answer.status == 200:
                        await _take(told, answer, reading, _cut(random))
                    elif answer.status != 503:
                        text = (await answer.text())[:200]
                        told.wrongs.append(f"events after {reading.cursor} were answered {answer.status}: {text}")
            except FAILURES:
                told.seen["events broke off"] += 1
            asked = reading.retries[-1] / 1000 if len(reading.retries) > pauses else 0
            await asyncio.sleep(max(asked, random.uniform(*PAUSE)))


def _body(ask: Ask) -> dict[str, Any]:
    return {
        "feature": "chat",
        "model": ask.model,
        "input": {"messages": [{"role": "user", "content": ask.prompt}]},
        "metadata": {"ask": str(ask.number)},
    }


def _cut(random: Random) -> int | None:
    """The bytes after which the client drops this response, if it does."""
    return random.randint(1, 3000) if random.random() < 0.35 else None


def _note_end(told: Told, run: dict[str, Any]) -> None:
    told.run_ids.add(run["id"])
    if run["status"] in ENDED:
        told.ends.add(run["status"])


async def _take(told: Told, answer: aiohttp.ClientResponse, reading: Viewer, cut_after: int | None) -> None:
    """Read one response, to its end or until it is cut, wherever in an event that is."""
    unread, size = b"", 0
    async for data in answer.content.iter_any():
        came = data if cut_after is None else data[: cut_after - size]
        size += len(came)
        *blocks, unread = (unread + came).split(b"\n\n")
        for block in blocks:
            take_block(told, reading, block.decode())
        if told.wrongs:
            return
        if size == cut_after:
            told.seen["dropped"] += 1
            answer.close()
            return


def take_block(told: Told, reading: Viewer, block: str) -> None:
    """Take in what stands between two blank lines; what may not follow is noted as wrong."""
    attempt, before = reading.attempt, reading.said
    try:
        reading.take(block)
    except AssertionError as wrong:
        told.wrongs.append(f"a reader at {reading.cursor} was told {block[:200]!r}: {wrong}")
        return
    if attempt and reading.attempt != attempt and not before.begins(said(told.ask.model)):
        told.wrongs.append(f"attempt {attempt} said what the provider does not: {before.ending}")
