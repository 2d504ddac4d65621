"""One call, of Postgres or of Redis, for all who ask while the one before is answered."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from runstream.domain.errors import Unavailable

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_MOST = 64
"""Who may share a call: enough to save its cost, few enough to keep it short."""


class Together(Generic[Asked, Answer]):
    """Makes one call at a time, for all that was asked while the one before was under way.

    Who comes alone waits for nobody; the more come at once, the less each one costs. `call` answers in the order of
    what it is asked, and must have changed nothing where it raises: what shared a call that failed is asked again,
    each for itself, so that nobody fails for another's sake. Where it raised Unavailable, nobody is asked again.
    """

    def __init__(self, call: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer]]]) -> None:
        self._call = call
        self._waiting: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._calling: asyncio.Task[None] | None = None

    async def __call__(self, asked: Asked) -> Answer:
        """Raises what `call` raises. Whoever is cancelled takes nothing back: it may have been done."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._calling is None:
            self._calling = asyncio.create_task(self._all())
        return await answer

    async def _all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                await self._one(batch)
        finally:
            self._calling = None

    async def _one(self, batch: Sequence[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._call([asked for asked, _ in batch])
        except Unavailable as error:
            waited, self._waiting = self._waiting, []  # as long as anybody should
            _fail([*batch, *waited], error)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            for one in batch:
                await self._one([one])
        else:
            for (_, waiting), answer in zip(batch, answers, strict=True):
                if not waiting.done():
                    waiting.set_result(answer)


def _fail(batch: Sequence[tuple[Asked, asyncio.Future[Answer]]], error: Exception) -> None:
    for _, waiting in batch:
        if not waiting.done():
            waiting.set_exception(error)
