"""The token log: a run's events in a Redis Stream while it is under way, each published as it is appended."""

import asyncio
from collections.abc import Sequence
from enum import IntEnum
from importlib.resources import files
from typing import NamedTuple

import orjson
from redis.asyncio import Redis

from runstream.domain.cursor import Cursor
from runstream.domain.events import TERMINAL, Event
from runstream.redis_script import Script, Scripts

PREFIX = "runstream:run:"
_FIELD = b"e"
_PAGE = 500
_LONGEST = 16_384
"""Positions that an entry takes at the most: what is read of a log at once cannot be less than one."""


class Outcome(IntEnum):
    """What became of an append, as `append.lua` answers it."""

    APPENDED = 0
    AHEAD = 1
    """The log already holds more of this attempt than was expected: an earlier answer was lost on its way."""
    LOST = 2
    """The log does not hold what should come before: it must be put back from the attempt's first event."""
    FENCED = 3
    """A newer attempt writes this run."""
    REFUSED = 4
    """Redis did not take it, for instance because its memory is full."""


_OUTCOMES = tuple(Outcome)


class Entry(NamedTuple):
    """An event as it travels: its data stay encoded from the writer to the last reader."""

    attempt: int
    start: int
    end: int
    type: str
    data: bytes

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.attempt, self.end)

    @property
    def terminal(self) -> bool:
        return self.type in TERMINAL

    def event(self) -> Event:
        return Event(self.attempt, self.start, self.end, self.type, orjson.loads(self.data))

    def after(self, position: int) -> "Entry":
        """The part after `position`, which is inside this entry; so it is a counted one."""
        return encode(self.event().after(position))


class Append(NamedTuple):
    """Events of one attempt that follow each other; `start` is where the first one begins."""

    run_id: str
    attempt: int
    start: int
    events: Sequence[Event]


class Appended(NamedTuple):
    """`end` is the position that the log has reached, where it is known."""

    outcome: Outcome
    end: int


def key(run_id: str) -> str:
    """The stream's key, and the channel's name."""
    return PREFIX + run_id


def encode(event: Event) -> Entry:
    return Entry(event.attempt, event.start, event.end, event.type, orjson.dumps(event.data))


def parse(entry_id: bytes, body: bytes) -> Entry:
    """Read an entry as `append.lua` wrote it: the body is '<start> <type> <data>'."""
    attempt, _, end = entry_id.partition(b"-")
    start, type_, data = body.split(b" ", 2)
    return Entry(int(attempt), int(start), int(end), type_.decode(), data)


def parse_message(message: bytes) -> Entry:
    """Read a published entry: '<id> <start> <type> <data>'."""
    entry_id, _, body = message.partition(b" ")
    return parse(entry_id, body)


class TokenLog:
    """Appends and reads. A call takes no longer than `timeout`, and raises TimeoutError or redis' errors."""

    def __init__(self, redis: Redis, scripts: Scripts, *, ttl: float, ended_ttl: float) -> None:
        """`redis` is without a read timeout: one deadline a call, of `scripts`, costs less than its one for each read.

        `ttl` and `ended_ttl`, in seconds: how long a log outlives its last append, before and after the end.
        """
        self._redis = redis
        self._timeout = scripts.timeout
        self._ttl = int(ttl * 1000)
        self._ended_ttl = int(ended_ttl * 1000)
        self._append = Script(scripts, files(__package__).joinpath("append.lua").read_text())

    async def append(self, batch: Sequence[Append]) -> list[Appended]:
        """Append and publish for several runs in one call; each run's events go in together or not at all."""
        keys: list[str] = []
        arguments: list[bytes | int] = []
        for append in batch:
            keys.append(key(append.run_id))
            ttl = self._ended_ttl if append.events[-1].terminal else self._ttl
            events = append.events
            if events[-1].end - append.start > _LONGEST:
                events = [part for event in events for part in event.parts(_LONGEST)]
            arguments += (append.attempt, append.start, ttl, len(events))
            for event in events:
                arguments += (event.end, b"%d %b %b" % (event.start, event.type.encode(), orjson.dumps(event.data)))
        answer: list[int] = await self._append(keys, arguments)
        return [Appended(_OUTCOMES[answer[i]], answer[i + 1]) for i in range(0, len(answer), 2)]

    async def read(self, run_id: str, after: Cursor, most: int = _PAGE) -> tuple[list[Entry], bool]:
        """The next entries that end after `after`, `most` of them, and whether there may be more."""
        async with asyncio.timeout(self._timeout):
            found = await self._redis.xrange(key(run_id), min=f"({after}", count=most)
        return [parse(entry_id, fields[_FIELD]) for entry_id, fields in found], len(found) == most

    async def held(self, run_ids: Sequence[str]) -> list[bool]:
        """Of which there is a log, in one call."""
        async with asyncio.timeout(self._timeout), self._redis.pipeline(transaction=False) as pipeline:
            for run_id in run_ids:
                pipeline.exists(key(run_id))
            return [bool(there) for there in await pipeline.execute()]

    async def reached(self, run_ids: Sequence[str]) -> list[Cursor | None]:
        """The cursor of each log's last entry, in one call."""
        async with asyncio.timeout(self._timeout), self._redis.pipeline(transaction=False) as pipeline:
            for run_id in run_ids:
                pipeline.xrevrange(key(run_id), count=1)
            found = await pipeline.execute()
        return [Cursor.parse(entries[0][0].decode()) if entries else None for entries in found]

    async def forget(self, run_ids: Sequence[str]) -> None:
        """Delete the logs of these runs, of which nobody is to read any more."""
        if run_ids:
            async with asyncio.timeout(self._timeout):
                await self._redis.unlink(*map(key, run_ids))
