"""Follow a run from a cursor: history and live frames joined into one transcript."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import structlog
from redis.exceptions import RedisError

from runstream.domain.cursor import Cursor
from runstream.domain.errors import Unavailable
from runstream.domain.events import Event
from runstream.stream.hub import Frame, Hub, Subscription
from runstream.stream.log import Entry, TokenLog, encode

_RETRY = 2.0
"""Seconds, about, between two looks at a history that does not answer."""

log = structlog.get_logger(__name__)

_PAGE = (1, 8, 500)
"""Entries that are read from history at a time: at least, at first, and at most."""
_PAGE_BYTES = 64 * 1024
"""About how much that may be: it is all held until the reader has taken it."""

Rest = Callable[[Cursor], Awaitable[Sequence[Event] | None]]
"""Asks Postgres: the events after a cursor where the run has ended, else None."""


class Reader:
    """One reader of one run. Each event comes once, in order, without a gap, whatever is lost on the way.

    It subscribes first, then reads history, then joins the two by cursor.
    """

    def __init__(self, run_id: str, after: Cursor, *, hub: Hub, token_log: TokenLog, rest: Rest) -> None:
        self._run_id = run_id
        self._cursor = after
        self._hub = hub
        self._log = token_log
        self._rest = rest
        self._subscription: Subscription | None = None
        self._stopped = False

    def stop(self) -> None:
        """End `frames` soon, or as they begin: nobody reads them any more."""
        self._stopped = True
        if self._subscription is not None:
            self._subscription.closing = True
            self._subscription.wake()

    async def frames(self) -> AsyncGenerator[Sequence[Frame]]:
        """Yield the frames that are there, together; an empty batch is a heartbeat.

        Ends after the terminal event; without one, the reader is to go on from its cursor elsewhere.
        """
        with self._hub.subscribe(self._run_id) as subscription:
            self._subscription = subscription
            subscription.closing = subscription.closing or self._stopped
            while not subscription.closing:
                await subscription.wait()
                if frames := self._join(subscription.take(), subscription):
                    yield frames
                    if frames[-1].entry.terminal:
                        return
                if subscription.behind or subscription.heartbeat:
                    async for frames in self._catch_up(subscription):
                        yield frames
                        if frames and frames[-1].entry.terminal:
                            return

    async def _catch_up(self, subscription: Subscription) -> AsyncGenerator[Sequence[Frame]]:
        if subscription.behind:
            async for frames in self._history(subscription):
                yield frames
        if subscription.heartbeat:
            subscription.heartbeat = False
            yield await self._look_up(subscription)

    async def _history(self, subscription: Subscription) -> AsyncGenerator[Sequence[Frame]]:
        subscription.behind = False
        try:
            more, (least, page, most) = True, _PAGE
            while more and not subscription.closing:
                entries, more = await self._log.read(self._run_id, self._cursor, page)
                small = sum(len(entry.data) for entry in entries) < _PAGE_BYTES
                page = min(2 * page, most) if small else max(page // 4, least)
                before = self._cursor
                frames, _ = join(before, [Frame(entry, self._hub.encode(entry)) for entry in entries], self._hub.encode)
                if frames:
                    self._cursor = frames[-1].entry.cursor
                    yield frames
                more = more and self._cursor > before
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("history_failed", run_id=self._run_id, error=type(error).__name__)
            subscription.behind = True
            yield await self._look_up(subscription)
            await asyncio.sleep(_RETRY * random.uniform(0.5, 1.5))  # noqa: S311

    def _join(self, arrived: Sequence[Frame], subscription: Subscription) -> Sequence[Frame]:
        frames, gap = join(self._cursor, arrived, self._hub.encode)
        if gap:
            subscription.miss()
        if frames:
            self._cursor = frames[-1].entry.cursor
        return frames

    async def _look_up(self, subscription: Subscription) -> Sequence[Frame]:
        """See in Postgres whether the run has ended unannounced: a lost announcement delays an end, never hides it."""
        try:
            events = await self._rest(self._cursor)
        except Unavailable:
            return []
        if events is not None and not events:
            subscription.closing = True  # at a place beyond the end, which no event of this run has
        entries = [encode(event) for event in events or ()]
        return [Frame(entry, self._hub.encode(entry)) for entry in entries]


def join(cursor: Cursor, frames: Sequence[Frame], encoder: Callable[[Entry], bytes]) -> tuple[Sequence[Frame], bool]:
    """The frames that continue from `cursor`, the first one cut where it began before; and whether one is missing.

    What comes after a gap is left out.
    """
    attempt, position = cursor
    if len(frames) == 1 and (frames[0].entry.attempt, frames[0].entry.start) == cursor:
        return frames, False  # what comes for every token: the one that follows
    joined: list[Frame] = []
    for frame in frames:
        entry = frame.entry
        if (entry.attempt, entry.end) <= (attempt, position):
            continue
        at = position if entry.attempt == attempt else 0
        if entry.start > at:
            return joined, True
        joined.append(frame if entry.start == at else _cut(entry, at, encoder))
        attempt, position = entry.attempt, entry.end
    return joined, False


def _cut(entry: Entry, at: int, encoder: Callable[[Entry], bytes]) -> Frame:
    rest = entry.after(at)
    return Frame(rest, encoder(rest))
