"""Somebody who reads a run through whatever happens, and holds each thing told against what was told before."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from itertools import chain, takewhile, zip_longest
from typing import Any, NamedTuple

import httpx

DEADLINE = 60
PAUSE = 0.05
TERMINAL = frozenset({"run.completed", "run.failed", "run.cancelled"})
_COUNTED = {"run.delta": "text", "run.reasoning": "text", "run.tool_call": "arguments"}
_EVENT = re.compile(r"id: (\d+)-(\d+)\nevent: (\S+)\ndata: (.*)")


class Said(NamedTuple):
    """What a model has said in one attempt: in this order, where it says all of it."""

    reasoning: str = ""
    text: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()
    """Each one's id, name and arguments."""

    def begins(self, whole: Said) -> bool:
        """Whether it is a beginning of what is said as a whole, or all of it."""
        pairs = list(zip_longest(self._parts(), whole._parts(), fillvalue=""))
        alike = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        return all(whole_part.startswith(part) for part, whole_part in pairs[alike : alike + 1]) and not any(
            part for part, _ in pairs[alike + 1 :]
        )

    @property
    def characters(self) -> int:
        return sum(map(len, self._parts()))

    @property
    def ending(self) -> str:
        """The last of it, to be looked at."""
        return " ".join(repr(part[-80:]) for part in self._parts() if part)

    def _parts(self) -> list[str]:
        return [self.reasoning, self.text, *chain.from_iterable(self.calls)]


class Viewer:
    """Reads one response after another, each from the last id it has whole.

    It fails at the first event that repeats something, leaves something out, has another id than its place, or is
    of another attempt without saying so.
    """

    def __init__(self, key: str, run_id: str) -> None:
        self.run_id = run_id
        self.attempt = 0
        self.position = 0
        self.text = ""
        self.reasoning = ""
        self.calls: list[tuple[str, str, str]] = []
        self.restarts: list[dict[str, Any]] = []
        self.end: tuple[str, dict[str, Any]] | None = None
        self.retries: list[int] = []
        """The pauses, in ms, that responses asked for as they ended."""
        self._key = key
        self._told = asyncio.Event()
        self._reads: asyncio.Task[None] | None = None

    @cached_property
    def http(self) -> httpx.AsyncClient:
        """Made by the first who reads: it takes longer than many a response."""
        return httpx.AsyncClient(headers={"Authorization": f"Bearer {self._key}"}, timeout=DEADLINE)

    @property
    def cursor(self) -> str:
        return f"{self.attempt}-{self.position}"

    @property
    def said(self) -> Said:
        return Said(self.reasoning, self.text, tuple(self.calls))

    async def until(self, seen: Callable[[Viewer], bool]) -> None:
        """Wait until what it has been told is enough; raises what went wrong in a reading that goes on meanwhile."""
        async with asyncio.timeout(DEADLINE):
            while not seen(self):
                if self._reads is not None and self._reads.done():
                    self._reads.result()
                    raise AssertionError(f"its reading ended at {self.cursor}: {self.end}")
                self._told.clear()
                await self._told.wait()

    async def read(self, url: str, *, cut_after: int | None = None) -> None:
        """Read one response, to its end or until `cut_after` bytes, wherever in an event they end."""
        headers = {"Last-Event-ID": self.cursor} if self.attempt else {}
        unread, size = b"", 0
        async with self.http.stream("GET", f"{url}/v1/runs/{self.run_id}/events", headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            async for data in response.aiter_raw():
                came = data if cut_after is None else data[: cut_after - size]
                size += len(came)
                *blocks, unread = (unread + came).split(b"\n\n")
                for block in blocks:
                    self.take(block.decode())
                if size == cut_after:
                    return

    @asynccontextmanager
    async def reading(self, urls: Callable[[], str]) -> AsyncIterator[Viewer]:
        """Read on meanwhile, and afterwards to the run's end, each response from wherever `urls` says."""
        self._reads = asyncio.create_task(self._read_on(urls))
        self._reads.add_done_callback(lambda _: self._told.set())
        try:
            yield self
            await self._reads
        finally:
            self._reads.cancel()

    async def _read_on(self, urls: Callable[[], str]) -> None:
        async with asyncio.timeout(DEADLINE):
            while self.end is None:
                try:
                    await self.read(urls())
                except httpx.TransportError:
                    await asyncio.sleep(PAUSE)

    def take(self, block: str) -> None:
        """Take in what stands between two blank lines."""
        if block.startswith("retry: "):
            self.retries.append(int(block.removeprefix("retry: ")))
        elif not block.startswith(":"):
            fields = _EVENT.fullmatch(block)
            assert fields, block
            self._event(int(fields[1]), int(fields[2]), fields[3], json.loads(fields[4]))
        self._told.set()

    def _event(self, attempt: int, position: int, type_: str, data: dict[str, Any]) -> None:
        assert self.end is None, f"{type_} came after the end"
        if attempt != self.attempt:
            assert attempt > self.attempt, "an attempt that is over came back"
            assert type_ == ("run.started" if attempt == 1 else "run.restarted") or (
                type_ in TERMINAL and not self.said.characters
            )
            self.attempt, self.position = attempt, 0
            self.text, self.reasoning, self.calls = "", "", []
        if type_ == "run.restarted":
            self.restarts.append(data)
        told = data.get(_COUNTED.get(type_, ""))
        assert told != "", f"{type_} says nothing"
        self.position += 1 if told is None else len(told)
        assert position == self.position, f"{type_} has the id of another place"
        if type_ == "run.delta":
            self.text += data["text"]
        if type_ == "run.reasoning":
            self.reasoning += data["text"]
        if type_ == "run.tool_call":
            self._tool_call(**data)
        if type_ in TERMINAL:
            self.end = (type_, data)

    def _tool_call(self, *, index: int, **told: str) -> None:
        """Calls are opened in the order of their numbers, each once and before its arguments."""
        if "arguments" in told:
            assert index < len(self.calls), "arguments came before their call"
            call_id, name, arguments = self.calls[index]
            self.calls[index] = (call_id, name, arguments + told.pop("arguments"))
        else:
            assert index == len(self.calls), "a call was opened out of turn"
            self.calls.append((told.pop("id"), told.pop("name"), ""))
        assert not told, f"a tool call has {told} as well"

    async def __aenter__(self) -> Viewer:
        return self

    async def __aexit__(self, *_: object) -> None:
        if "http" in vars(self):
            await self.http.aclose()
