"""What a worker makes of a provider's pieces, however a protocol cuts and orders them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
from redis.asyncio import Redis

from answering import answers_of
from runstream.connections import guards
from runstream.counters.book import Book
from runstream.domain.cursor import START
from runstream.domain.ids import new_id
from runstream.domain.run import Request
from runstream.features.registry import FEATURES
from runstream.gateway.circuits import Circuits
from runstream.gateway.generate import Gateway
from runstream.gateway.pricing import Prices
from runstream.gateway.routes import Routes, TargetConfig
from runstream.gateway.turn import Lines
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
from runstream.queue.enqueue import JobQueue
from runstream.runs.execute import Execute
from runstream.runs.intake import MOST_PARTS
from runstream.settings import Settings
from runstream.storage.database import connect
from runstream.storage.leases import LeaseStore
from runstream.storage.runs import RunStore
from runstream.stream.log import TokenLog
from runstream.stream.writer import WriteLoop

DEADLINE = 20
WORKER = "wrk_1"
NO_LINES = Lines({}, wait=0, reserved_output=0)
REQUEST = Request("chat", "1", "m", {"messages": [{"role": "user", "content": "x"}]}, {})


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
    connection = await asyncpg.connect(database_url, timeout=DEADLINE)
    await connection.execute("insert into tenants (id) values ('acme') on conflict do nothing")
    await connection.close()
    engine = connect(database_url, pool_size=2, timeout=DEADLINE)
    store = RunStore(engine)
    async with Redis.from_url(redis_url) as redis:
        log = TokenLog(redis, timeout=DEADLINE, ttl=60, ended_ttl=60)
        loop = WriteLoop(log)
        routes, prices = Routes({"m": [TargetConfig("p/m")]}, ["p"]), Prices({"p": "http://p"}, {})
        sending = asyncio.create_task(loop.run())
        gateway = Gateway(routes, {"p": Scripted(pieces)}, Timeouts(), prices, Circuits(), NO_LINES)
        execute = Execute(
            worker=WORKER,
            store=store,
            jobs=JobQueue(redis, timeout=DEADLINE),
            book=Book(redis, timeout=DEADLINE),
            write_loop=loop,
            guards=guards(Settings(_env_file=None)),
            gateway=gateway,
            answers=answers_of(redis, engine, gateway, log, loop),
            features=FEATURES,
            retry_delays=[1],
            max_output_chars=max_output_chars,
        )
        try:
            await LeaseStore(engine).renew(WORKER, "host", 60)
            run_id = new_id("run")
            await store.insert(run_id, tenant="acme", user="ada", request=REQUEST, queue="q", max_attempts=1)
            await execute(run_id)
            entries, _ = await log.read(run_id, START, most=2 * MOST_PARTS)
            run = await store.get("acme", run_id)
            assert run is not None
            assert run.status == "completed", run.error
            assert run.finish_reason == ends
            events = [entry.event() for entry in entries]
            assert [event.start for event in events[1:]] == [event.end for event in events[:-1]]
            return [[event.type, event.data] for event in events[1:-1]]
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending
            await engine.dispose()


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
