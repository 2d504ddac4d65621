"""One lease a process, for all the runs that it writes."""

import asyncio
import time
from typing import Protocol

import structlog

from runstream.crash_points import Point, reached
from runstream.domain.errors import Unavailable
from runstream.storage.leases import Held, LeaseStore

log = structlog.get_logger(__name__)


class Holder(Protocol):
    """What writes runs under the lease."""

    def written(self) -> list[tuple[str, int]]:
        """Run and attempt of each generation that goes on now."""
        ...

    def reconcile(self, written: list[tuple[str, int]], held: list[Held]) -> list[Held]:
        """Stop each of `written` that is no longer held, and each that was asked to be cancelled.

        Answers those held that nobody here writes, or is about to write.
        """
        ...


class Lease:
    """Renewed every `interval` seconds for `duration` seconds, by the database's clock.

    A renewal answers what this worker still holds, so one that was stopped and woke up again learns at once what
    was taken from it, and lets go of what it holds without knowing: a claim whose answer was lost, an end that could
    not be written. While Postgres does not answer the runs go on: nobody else can take them either, and once it
    answers again they are left alone (`steady`) until every worker has had time to renew its lease.

    `holds` is this process's own view of it, by a clock that goes on while the process stands still: it errs on the
    side of having lapsed.
    """

    def __init__(self, store: LeaseStore, worker: str, host: str, *, duration: float, interval: float) -> None:
        self._store = store
        self._worker = worker
        self._host = host
        self._duration = duration
        self._interval = interval
        self._renewed: float | None = None
        self._steady_since = float("-inf")
        self._until = 0.0

    @property
    def steady(self) -> bool:
        """Whether Postgres has answered all along, so that a worker whose lease has lapsed is one that is lost.

        Where our own renewals have had a gap in which another's lease could lapse, so may theirs: it was Postgres
        that was away.
        """
        now = time.monotonic()
        return not self._gap(now) and now - self._steady_since >= 2 * self._duration

    def holds(self) -> bool:
        """Whether a renewal was answered, and has had its effect, and has not run out since it was asked for."""
        return time.monotonic() < self._until

    async def take(self) -> None:
        """Hold the lease before the first run is claimed. Raises Unavailable."""
        asked = time.monotonic()
        try:
            await self._store.renew(self._worker, self._host, self._duration)
        except Unavailable:
            self._steady_since = time.monotonic()
            raise
        self._renewed = time.monotonic()
        self._until = asked + self._duration

    async def keep(self, holder: Holder) -> None:
        """Renew until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                for run_id, attempt, _ in await self._renew(holder):
                    if await self._store.let_go(self._worker, run_id, attempt):
                        log.warning("run_let_go", run_id=run_id, attempt=attempt)
            except Unavailable as error:
                log.warning("lease_not_renewed", error=error.message)

    async def _renew(self, holder: Holder) -> list[Held]:
        """Answers what is held and not written."""
        asked, written = time.monotonic(), holder.written()
        held = await self._store.renew(self._worker, self._host, self._duration)
        self._note_renewal()
        reached(Point.LEASE_RENEWED)
        unwritten = holder.reconcile(written, held)
        self._until = asked + self._duration
        return unwritten

    def _note_renewal(self) -> None:
        now = time.monotonic()
        if self._gap(now):
            self._steady_since = now
        self._renewed = now

    def _gap(self, now: float) -> bool:
        longest = max(self._duration - self._interval, 2 * self._interval)
        return self._renewed is None or now - self._renewed > longest

    async def release(self) -> None:
        """Let others take up at once what is still held."""
        await self._store.release(self._worker)
