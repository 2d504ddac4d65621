"""Who has the answer to a request, and who asks for it: names by the request's key, and nothing of what is said."""

from collections.abc import Sequence
from enum import StrEnum
from importlib.resources import files
from typing import Any, NamedTuple

from redis.asyncio import Redis

from runstream.redis_script import Script, Scripts

_MAKING, _READING = "runstream:making:", "runstream:reading:"


class Step(StrEnum):
    """What `board.lua` does."""

    OPEN = "open"
    LEAD = "lead"
    FOLLOW = "follow"
    LEAVE = "leave"
    ABANDON = "abandon"
    RELEASE = "release"
    KEEP = "keep"


class Found(StrEnum):
    """What there is for a request."""

    ANSWERED = "answered"
    """A run that has the answer."""
    ASKING = "asking"
    """A call that another process makes."""
    OWN = "own"
    """Nothing: the call is the asker's to make."""


class Kept(NamedTuple):
    """What is told of a call at every turn: `holds` whether it is still made, `others` how many processes read it."""

    holds: bool
    others: int


class Answered(NamedTuple):
    """The run that has an answer, for so many milliseconds."""

    run_id: str
    ttl: int


class Board:
    """A call is its maker's for `lease` seconds after it last said so, and read by whoever said so in that time.

    Each step is one script, so it happens as a whole, and those of one process happen in their order. All raise redis'
    errors, OSError, TimeoutError.
    """

    def __init__(self, scripts: Scripts, worker: str, *, lease: float) -> None:
        self._worker = worker
        self._lease = int(lease * 1000)
        self._steps = Script(scripts, files(__package__).joinpath("board.lua").read_text())

    async def open(self, key: str, call: str, *, disregard: str | None) -> tuple[Found, str]:
        """What there is, and its name; where there is nothing, `call` is noted as this process's, else it reads on.

        An answer to `disregard` is one that is not to be had.
        """
        found, name = await self._step(Step.OPEN, key, call, disregard or "")
        return Found(found.decode()), name.decode()

    async def keep_up(self, calls: Sequence[tuple[Step, str, str]]) -> list[Kept]:
        """Say again of each call that it is led, or followed, here: its step, its key, its name."""
        answers = await self._steps.each([self._asked(step, key, call) for step, key, call in calls])
        return [Kept(bool(holds), others) for holds, others in answers]

    async def leave(self, key: str, call: str) -> None:
        """It is not read here any more."""
        await self._step(Step.LEAVE, key, call)

    async def abandon(self, key: str, call: str) -> bool:
        """Make it nobody's, if nobody else reads it: whether that is so."""
        return not (await self._step(Step.ABANDON, key, call))[1]

    async def release(self, key: str, call: str, answered: Answered | None = None) -> int:
        """It is over, and who has its answer is kept with the same step; answers how many others read it."""
        return int((await self._step(Step.RELEASE, key, call, *(answered or ())))[1])

    async def keep(self, key: str, answered: Answered) -> None:
        """Keep who has the answer to a request, in the place of any other."""
        await self._step(Step.KEEP, key, "", *answered)

    async def _step(self, step: Step, key: str, call: str, *more: str | int) -> Any:
        return await self._steps(*self._asked(step, key, call, *more))

    def _asked(self, step: Step, key: str, call: str, *more: str | int) -> tuple[list[str], list[str | int]]:
        keys = [f"runstream:answer:{key}", f"runstream:asking:{key}", _READING, _MAKING]
        return keys, [step, call, self._lease, self._worker, *more]


async def in_use(redis: Redis, calls: Sequence[str]) -> list[bool]:
    """Of calls, by their names, which some process makes now, or reads. Raises redis' errors, OSError, TimeoutError."""
    async with redis.pipeline(transaction=False) as pipeline:
        for call in calls:
            pipeline.exists(_MAKING + call, _READING + call)
        return [count > 0 for count in await pipeline.execute()]
