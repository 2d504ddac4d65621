"""Wait for a run's end."""

import asyncio
from collections.abc import Sequence
from functools import partial

from runstream.domain.cursor import Cursor
from runstream.domain.errors import NotFound
from runstream.domain.events import Event
from runstream.domain.principal import Owner
from runstream.domain.run import Run
from runstream.storage.runs import RunStore
from runstream.stream.hub import Hub, Subscription
from runstream.stream.log import TokenLog
from runstream.stream.reader import Reader

MAX_WAIT = 120
"""Seconds that a request may wait: proxies cut longer ones."""


class Watch:
    def __init__(self, store: RunStore, hub: Hub, token_log: TokenLog) -> None:
        self._store = store
        self._hub = hub
        self._log = token_log

    def reader(self, owner: Owner, run_id: str, after: Cursor) -> Reader:
        """Follows a run that has not ended, as far as is known; it finds out if it has."""
        rest = partial(self._rest, owner, run_id)
        return Reader(run_id, after, hub=self._hub, token_log=self._log, rest=rest)

    async def _rest(self, owner: Owner, run_id: str, after: Cursor) -> Sequence[Event] | None:
        standing = await self._store.standing(owner, run_id)
        if standing is None or standing.removed:
            return []  # there is nothing more to be had: asked for again, it is said why
        return standing.transcript.after(after) if standing.transcript else None

    async def until_ended(self, owner: Owner, run_id: str, seconds: float) -> Run:
        """The run as soon as it has ended, or as it is after `seconds`. Raises NotFound, Unavailable."""
        run = await self._get(owner, run_id)
        if run.status.ended or seconds <= 0:
            return run
        with self._hub.subscribe(run_id) as subscription:
            try:
                async with asyncio.timeout(seconds):
                    while not subscription.closing and not run.status.ended:
                        await _something_changed(subscription)
                        run = await self._get(owner, run_id)
                    return run
            except TimeoutError:
                return await self._get(owner, run_id)

    async def _get(self, owner: Owner, run_id: str) -> Run:
        run = await self._store.get(owner, run_id)
        if run is None:
            raise NotFound("There is no such run.")
        return run


async def _something_changed(subscription: Subscription) -> None:
    """Until the end was announced, or it may have been missed, or it is time for a look."""
    while not subscription.closing:
        await subscription.wait()
        looked = subscription.behind or subscription.heartbeat
        subscription.behind = subscription.heartbeat = False
        if looked or any(frame.entry.terminal for frame in subscription.take()):
            return
