"""What a worker makes of a provider's pieces, however a protocol cuts and orders them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from in_process import working
from runstream.providers.base import (
    Call,
    Finished,
    Opened,
    Piece,
    ReasoningDelta,
    TextDelta,
    Timeouts,
    ToolCallDelta,
)
from runstream.providers.keys import KeyRing
from runstream.runs.intake import MOST_PARTS


class Scripted:
    """A provider that gives out these pieces."""

    name = "p"
    keys = KeyRing("p", ())

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces

    @asynccontextmanager
    async def stream(self, _: Call, __: Timeouts) -> AsyncIterator[AsyncIterator[Piece]]:
        async def given() -> AsyncIterator[Piece]:
            for piece in (Opened("req_1"), *self._pieces, Finished("stop")):
                yield piece

        yield given()

    async def models(self) -> list[str]:
        return ["m"]

    async def aclose(self) -> None: ...


async def events_of(
    database_url: str, redis_url: str, *pieces: Piece, max_output_chars: int = 1000, ends: str = "stop"
) -> list[list[Any]]:
    """The events of a run whose provider gives out these pieces, between its beginning and its end.

    `ends` is the reason for which it finishes.
    """
    given = {"p": Scripted(pieces)}
    async with working(database_url, redis_url, given=given, max_output_chars=max_output_chars) as worker:
        run, events = await worker.run("x", model="m")
        assert run.status == "completed", run.error
        assert run.finish_reason == ends
        assert [event.start for event in events[1:]] == [event.end for event in events[:-1]]
        return [[event.type, event.data] for event in events[1:-1]]


def opened(index: int, name: str) -> list[Any]:
    return ["run.tool_call", {"index": index, "id": f"id_{index}", "name": name}]


def piece(index: int, arguments: str) -> list[Any]:
    return ["run.tool_call", {"index": index, "arguments": arguments}]


async def test_a_piece_that_opens_a_call_and_has_arguments_is_two_events(database_url: str, redis_url: str) -> None:
    events = await events_of(database_url, redis_url, ToolCallDelta(0, "id_0", "f", "{}"))
    assert events == [opened(0, "f"), piece(0, "{}")]


async def test_calls_that_take_turns_are_told_in_turns(database_url: str, redis_url: str) -> None:
    events = await events_of(
        database_url,
        redis_url,
        ToolCallDelta(0, "id_0", "f", "{"),
        ToolCallDelta(1, "id_1", "g", "["),
        ToolCallDelta(0, None, None, "}"),
        ToolCallDelta(1, None, None, ""),
        ToolCallDelta(1, None, None, "]"),
    )
    assert events == [opened(0, "f"), piece(0, "{"), opened(1, "g"), piece(1, "["), piece(0, "}"), piece(1, "]")]


async def test_a_call_is_opened_once_though_its_name_comes_with_each_piece(database_url: str, redis_url: str) -> None:
    again = ToolCallDelta(0, "id_0", "f", "1")
    events = await events_of(database_url, redis_url, again, again, again)
    assert events == [opened(0, "f"), piece(0, "111")]


async def test_kinds_come_in_the_order_in_which_they_were_said(database_url: str, redis_url: str) -> None:
    events = await events_of(
        database_url,
        redis_url,
        ReasoningDelta("hm"),
        ReasoningDelta("m"),
        TextDelta("so"),
        ReasoningDelta("no"),
        ToolCallDelta(0, "id_0", "f", ""),
        TextDelta("well"),
    )
    assert events == [
        ["run.reasoning", {"text": "hmm"}],
        ["run.delta", {"text": "so"}],
        ["run.reasoning", {"text": "no"}],
        opened(0, "f"),
        ["run.delta", {"text": "well"}],
    ]


async def test_an_output_of_endless_short_parts_is_cut_long_before_its_characters_are(
    database_url: str, redis_url: str
) -> None:
    endless = [ReasoningDelta("a"), TextDelta("b")] * MOST_PARTS
    cut = {"max_output_chars": 10 * MOST_PARTS, "ends": "max_output_chars"}
    events = await events_of(database_url, redis_url, *endless, **cut)
    assert len(events) == MOST_PARTS - 1  # after the one that says that the run has started
    calls = [ToolCallDelta(index, "c", "f", "") for index in range(2 * MOST_PARTS)]
    assert len(await events_of(database_url, redis_url, *calls, **cut)) == MOST_PARTS - 1
