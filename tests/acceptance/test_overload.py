"""What a queue that is full answers, and what memory holds when readers and providers do their worst."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import psutil

from caller import Caller, words
from reliability import MakeStack, rows, user
from stack import Process, Stack
from viewer import DEADLINE, Viewer
from waiting import until

TOO_MANY = ("429", "too_many_queued")
FULL = ("503", "queue_full")
ACCEPTED = ("202", "")
SILENT = 200
CEILING = 1_000_000
LONG = 6_500_000
"""Characters: more than the system's own buffers take of a stream that nobody reads."""


async def answers(*posts: asyncio.Future) -> Counter[tuple[str, str]]:
    """How often each status and code was answered; every refusal says when to come back."""
    counted: Counter[tuple[str, str]] = Counter()
    for answer in await asyncio.gather(*posts):
        accepted = answer.status_code == 202
        assert accepted or int(answer.headers["retry-after"]) > 0
        counted[str(answer.status_code), "" if accepted else answer.json()["error"]["code"]] += 1
    return counted


# The queue


async def test_a_tenant_whose_runs_wait_is_refused_more_and_others_are_not(make_stack: MakeStack) -> None:
    stack = make_stack(workers=0, max_queued_per_tenant=10, max_queued=15)
    async with user(stack) as greedy, Caller.of(stack, "other", "bob") as other:
        assert await answers(*(greedy.post() for _ in range(30))) == {ACCEPTED: 10, TOO_MANY: 20}
        assert await answers(*(other.post() for _ in range(5))) == {ACCEPTED: 5}
        assert await answers(*(other.post() for _ in range(4))) == {FULL: 4}
        assert (await rows(stack, "select count(*) from runs"))[0][0] == 15, "what is refused leaves nothing"


async def test_a_full_queue_takes_runs_again_as_soon_as_they_are_taken_up(make_stack: MakeStack) -> None:
    stack = make_stack(workers=0, max_queued=5)
    async with user(stack) as caller:
        run_ids = [await caller.create() for _ in range(5)]
        assert await answers(caller.post()) == {FULL: 1}
        await asyncio.to_thread(stack.start_worker)
        await asyncio.gather(*map(caller.ended, run_ids))
        assert await answers(*(caller.post() for _ in range(5))) == {ACCEPTED: 5}


async def test_a_retried_request_finds_its_run_though_the_queue_is_full(make_stack: MakeStack) -> None:
    stack = make_stack(workers=0, max_queued=1)
    async with user(stack) as caller:
        headers = {"Idempotency-Key": "order-933"}
        run_id = (await caller.post(headers=headers)).json()["id"]
        again = await caller.post(headers=headers)
        assert (again.status_code, again.json()["id"]) == (202, run_id)
        assert (await caller.post("sim:6", headers=headers)).status_code == 409
        assert (await caller.post(headers={"Idempotency-Key": "order-934"})).status_code == 503


async def test_api_processes_pass_the_bound_together_by_no_more_than_they_accept_between_two_counts(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(apis=2, workers=0, max_queued=20)
    async with user(stack) as caller, caller.at(stack.urls[1]) as elsewhere:
        at_once = await answers(*(each.post() for each in (caller, elsewhere) for _ in range(30)))
        assert 20 <= at_once[ACCEPTED] <= 40
        assert at_once[ACCEPTED] + at_once[FULL] == 60
        assert await answers(caller.post(), elsewhere.post()) == {FULL: 2}


# Memory


@contextmanager
def silent_readers(stack: Stack, run_id: str, count: int) -> Iterator[None]:
    """They ask for the run's events and read nothing of them."""
    server = urlsplit(stack.url)
    request = (
        f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: {server.netloc}\r\nAuthorization: Bearer {stack.key}\r\n\r\n"
    ).encode()
    sockets = []
    try:
        for _ in range(count):
            reader = socket.socket()
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect((server.hostname, server.port))
            reader.sendall(request)
            sockets.append(reader)
        yield
    finally:
        for reader in sockets:
            reader.close()


def megabytes(process: Process) -> float:
    return psutil.Process(process.pid).memory_info().rss / 2**20


async def readers(stack: Stack) -> int:
    """How many event streams the API process has open."""
    async with httpx.AsyncClient() as client:
        metrics = (await client.get(f"{stack.url}/metrics", timeout=DEADLINE)).text
    return int(float(re.findall(r"^runstream_readers (\S+)$", metrics, re.MULTILINE)[0]))


async def test_readers_that_read_nothing_hold_little_of_a_long_run_and_others_are_served(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(max_output_chars=LONG)
    (api,), (worker,) = stack.apis, stack.workers
    async with user(stack) as caller:
        await caller.ended(await caller.create("sim:1000"))
        before = megabytes(api), megabytes(worker)
        run_id = await caller.create("sim:1000000")
        with silent_readers(stack, run_id, SILENT):
            async with Viewer(stack.key, run_id) as viewer:
                await viewer.read(stack.url)
                assert viewer.text == words(1_000_000)[:LONG]
            assert await readers(stack) > SILENT / 2, "they are still there"
            assert megabytes(api) - before[0] < 1.5 * SILENT
            assert megabytes(worker) - before[1] < 50

        async def all_gone() -> bool:
            return await readers(stack) == 0

        await until(all_gone, "the streams are closed")


async def test_a_reader_that_takes_in_nothing_for_long_is_let_go_of(make_stack: MakeStack) -> None:
    stack = make_stack(reader_timeout=2)
    async with user(stack) as caller:
        run_id = await caller.create("hang:200000")
        with silent_readers(stack, run_id, 1):
            async with Viewer(stack.key, run_id) as viewer, viewer.reading(lambda: stack.url):
                await viewer.until(lambda viewer: viewer.text == words(200_000))

                async def one_is_left() -> bool:
                    return await readers(stack) == 1

                await until(one_is_left, "the silent one's stream is closed")
                await caller.cancel(run_id)


async def test_connections_that_open_and_close_leave_nothing(make_stack: MakeStack) -> None:
    stack = make_stack()
    (api,) = stack.apis
    async with user(stack) as caller:
        running, ended = await caller.create("hang:5"), await caller.create("sim:5")
        await caller.ended(ended)

        async def come_and_go(connections: int) -> None:
            for _ in range(connections // 200):
                for run_id in (running, ended):
                    with silent_readers(stack, run_id, 100):
                        pass
            await until(all_gone, "the streams are closed")

        async def all_gone() -> bool:
            return await readers(stack) == 0

        await come_and_go(1000)
        before = megabytes(api)
        await come_and_go(9000)
        assert megabytes(api) - before < 20
        await caller.cancel(running)


def said(output: dict) -> int:
    """Characters that were said; a call counts by its id and name, and one more."""
    calls = output.get("tool_calls", ())
    called = [1 + len(call["id"]) + sum(map(len, call["function"].values())) for call in calls]
    return len(output["text"]) + len(output.get("reasoning", "")) + sum(called)


async def test_outputs_of_any_size_are_cut_and_hold_a_worker_to_its_memory(make_stack: MakeStack) -> None:
    stack = make_stack(max_output_chars=CEILING)
    (worker,) = stack.workers
    async with user(stack) as caller:
        await caller.ended(await caller.create("sim:1000"))
        before = megabytes(worker)
        endless = await caller.create("sim:8000000")  # 62 MB
        large = ["big:1500000"] * 3 + ["reasoning:200000:1", "tools:200000:10"]
        others = [await caller.create(model) for model in large + ["sim:100000"] * 3]
        for run_id in [endless, *others]:
            run = await caller.ended(run_id)
            cut = run_id in {endless, *others[: len(large)]}
            assert run["status"] == "completed"
            assert run["finish_reason"] == ("max_output_chars" if cut else "stop")
            assert said(run["output"]) == (CEILING if cut else len(words(100_000)))
        assert megabytes(worker) - before < 150
        await until(lambda: not stack.provider_stats()["open_streams"], "the calls are closed")
