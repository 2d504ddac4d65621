"""Whose turn it is at a provider's keys, decided in Redis for all worker processes: see `gateway.line`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

from runstream.counters.away import answering
from runstream.redis_script import Script, Scripts

ALIVE = 3.0
"""Seconds for which a process' calls keep their place without a sign of it."""
_KEPT = 60.0
"""Seconds after the longest wait in which nothing more is left of a line."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What each key of a provider may be asked for in a minute; None is not limited."""

    requests: int | None
    tokens: int | None


class Coming(NamedTuple):
    """A call that would be made; `patience` is in seconds."""

    id: str
    tenant: str
    tokens: int
    patience: float


class Grant(NamedTuple):
    """A call that may be made now, with this key; `second` is what it is counted in."""

    id: str
    key: str
    second: int
    tokens: int


class Told(NamedTuple):
    """`waiting` calls of the process are in the line; `wait` is in seconds, until one of all may have its turn.

    `refused` has those that would wait for longer than they want to, with the seconds.
    """

    waiting: int
    wait: float
    granted: Sequence[Grant]
    refused: Sequence[tuple[str, float]]


class KeyTurns:
    """Each call is one script, so it happens as a whole. All raise Away.

    Keys are known there by a hash alone. Nothing has to be tidied up: what a process leaves behind counts no more
    after `ALIVE`, and is gone some minutes later.
    """

    def __init__(self, scripts: Scripts, *, longest: float, now: Callable[[], int] | None = None) -> None:
        """`longest` is what a call may wait for, in seconds.

        `now` gives milliseconds in the place of the clock of Redis, which all processes share.
        """
        self._take = Script(scripts, _source("take_key"))
        self._settle = Script(scripts, _source("settle_key"))
        self._keep = _milliseconds(longest + _KEPT)
        self._now = now

    async def take(
        self,
        provider: str,
        rate: Rate,
        keys: Sequence[str],
        worker: str,
        coming: Sequence[Coming],
        going: Sequence[str],
    ) -> Told:
        """Give turns to the worker's calls, those that come and those that wait; `going` are ids of those that do not.

        Whoever is in the line already stays where it is. Of several keys with room the one with the most is given.
        """
        now = "" if self._now is None else self._now()
        arguments: list[str | int] = [
            now,
            worker,
            _milliseconds(ALIVE),
            self._keep,
            rate.requests or 0,
            rate.tokens or 0,
        ]
        arguments += [len(keys), *(_key(provider, key) for key in keys), len(going), *going]
        for call in coming:
            arguments += [call.id, call.tenant, call.tokens, _milliseconds(call.patience)]
        with answering():
            waiting, wait, granted, refused = await self._take([_line(provider)], arguments)
        return Told(
            waiting,
            wait / 1000,
            [Grant(id_.decode(), keys[key - 1], second, tokens) for id_, key, second, tokens in granted],
            [(id_.decode(), milliseconds / 1000) for id_, milliseconds in refused],
        )

    async def settle(self, provider: str, rate: Rate, grant: Grant, *, made: bool, tokens: int) -> None:
        """Count these tokens in the place of those that were reserved; and no request, where none was `made`."""
        back = (int(not made), grant.tokens - tokens)
        with answering():
            await self._settle([_key(provider, grant.key)], [grant.second, *back, rate.requests or 0, rate.tokens or 0])


def _source(name: str) -> str:
    here = files(__package__)
    return here.joinpath("key.lua").read_text() + here.joinpath(f"{name}.lua").read_text()


def _line(provider: str) -> str:
    return f"runstream:line:{provider}"


def _key(provider: str, key: str) -> str:
    return f"{_line(provider)}:key:{sha256(key.encode()).hexdigest()[:32]}"


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
