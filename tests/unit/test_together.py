"""One call for all who come together: nobody waits without need, nobody fails for another's sake."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from runstream.domain.errors import Unavailable
from runstream.storage.together import Together


class Calls:
    """Doubles what it is asked for, one call at a time; notes each call, and holds it until told to go on."""

    def __init__(self) -> None:
        self.made: list[list[int]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, asked: Sequence[int]) -> list[int]:
        self.made.append(list(asked))
        await self.go_on.wait()
        if 13 in asked:
            raise ValueError("13")
        if 503 in asked:
            raise Unavailable
        return [2 * one for one in asked]


async def test_those_who_come_during_a_call_share_the_next_one() -> None:
    calls = Calls()
    together = Together(calls)
    calls.go_on.clear()
    first = asyncio.create_task(together(1))
    await asyncio.sleep(0)
    rest = [asyncio.create_task(together(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    calls.go_on.set()
    assert await asyncio.gather(first, *rest) == [2, 4, 6, 8]
    assert calls.made == [[1], [2, 3, 4]]


async def test_one_that_fails_fails_alone() -> None:
    calls = Calls()
    together = Together(calls)
    answers = await asyncio.gather(*map(together, (1, 13, 2)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [int, ValueError, int]
    assert calls.made == [[1, 13, 2], [1], [13], [2]]


async def test_where_nobody_answers_those_who_have_waited_are_not_kept_waiting() -> None:
    calls = Calls()
    together = Together(calls)
    calls.go_on.clear()
    first = asyncio.create_task(together(503))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = asyncio.create_task(together(1))
    await asyncio.sleep(0)
    calls.go_on.set()
    for waiting in (first, second):
        with pytest.raises(Unavailable):
            await waiting
    assert calls.made == [[503]]
    assert await together(2) == 4


async def test_whoever_is_cancelled_takes_nobody_along() -> None:
    calls = Calls()
    together = Together(calls)
    calls.go_on.clear()
    first, second = asyncio.create_task(together(1)), asyncio.create_task(together(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    calls.go_on.set()
    assert await second == 4
    assert first.cancelled()
