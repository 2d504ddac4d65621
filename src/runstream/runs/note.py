"""Keep with an attempt what its answer can be read on by, while the answer comes."""

import asyncio
import random
from contextlib import suppress

import structlog

from runstream.domain.errors import Unavailable
from runstream.domain.run import Claim, KeptAnswer
from runstream.storage.runs import RunStore

_PAUSE = (0.1, 5.0)
"""Seconds between tries while Postgres does not take it: the first, and the longest."""

log = structlog.get_logger(__name__)


class Note:
    """One attempt's. Nothing waits for it but the attempt's end: until it is written, a crash costs another call."""

    def __init__(self, store: RunStore, worker: str, claim: Claim) -> None:
        self._store = store
        self._worker = worker
        self._claim = claim
        self._unwritten: KeptAnswer | None = None
        self._over = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def begin(self, answer: KeptAnswer) -> None:
        """Write it at once, in the place of any that was written before."""
        self._unwritten = answer
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def close(self) -> None:
        """Wait for the try that is under way, and make no other."""
        self._over.set()
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        pause = _PAUSE[0]
        while (answer := self._unwritten) is not None:
            try:
                claim = self._claim
                await self._store.note_answer(claim.tenant, claim.run_id, claim.attempt, self._worker, answer)
            except Unavailable as error:
                log.warning("answer_not_noted", error=error.message)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause * random.uniform(0.5, 1)):  # noqa: S311
                        await self._over.wait()
                if self._over.is_set():
                    return
                pause = min(pause * 2, _PAUSE[1])
            else:
                if self._unwritten is answer:
                    self._unwritten = None
