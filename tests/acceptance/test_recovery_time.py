"""How long a reader waits for the next token when the worker that generates goes, at the default settings."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from reliability import MakeStack, reading, rows, unicode_text, user
from stack import Process, Stack
from viewer import Viewer

KILLED = 5.0
STOPPED = 2.0
"""Seconds, as they are promised."""
RUNS = 8
TOKENS = 250
MODEL = f"unicode:{TOKENS}:50"


async def begin(stack: Stack, open_: AsyncExitStack) -> tuple[Process, list[Viewer]]:
    """Start runs on two workers; answers the one that has most of them, and who reads those."""
    caller = await open_.enter_async_context(user(stack))
    run_ids = await asyncio.gather(*(caller.create(MODEL) for _ in range(RUNS)))
    viewers = [await open_.enter_async_context(reading(stack, caller, run_id)) for run_id in run_ids]
    for viewer in viewers:
        await viewer.until(lambda viewer: bool(viewer.text))
    workers = dict(await rows(stack, "select id, worker from runs"))
    ((most, _),) = Counter(workers.values()).most_common(1)
    process = next(process for process in stack.workers if most in process.output())
    return process, [viewer for viewer in viewers if workers[viewer.run_id] == most]


async def waits(viewers: list[Viewer]) -> list[float]:
    """Seconds from now until each has the first text of a new attempt."""

    async def wait(viewer: Viewer) -> float:
        began = time.monotonic()
        await viewer.until(lambda viewer: viewer.attempt == 2 and bool(viewer.text))
        return time.monotonic() - began

    return await asyncio.gather(*map(wait, viewers))


@pytest.mark.promise("P1", "P5")
async def test_tokens_come_again_within_five_seconds_of_a_worker_being_killed(make_stack: MakeStack) -> None:
    stack = make_stack(workers=2)
    async with AsyncExitStack() as open_:
        process, viewers = await begin(stack, open_)
        stack.kill(process)
        waited = await waits(viewers)
    assert max(waited) < KILLED
    for viewer in viewers:
        assert viewer.restarts == [{"attempt": 2, "reason": "worker_lost"}]
        assert viewer.text == unicode_text(TOKENS)


@pytest.mark.promise("P1", "P5")
async def test_tokens_come_again_within_two_seconds_of_a_worker_handing_its_runs_back(make_stack: MakeStack) -> None:
    """It has no grace time here: in the default one these runs would end where they began."""
    stack = make_stack(workers=2, worker_grace="0")
    async with AsyncExitStack() as open_:
        process, viewers = await begin(stack, open_)
        process.terminate()
        waited = await waits(viewers)
    assert max(waited) < STOPPED
    for viewer in viewers:
        assert viewer.restarts == [{"attempt": 2, "reason": "worker_stopped"}]
        assert viewer.text == unicode_text(TOKENS)


@pytest.mark.promise("P1")
async def test_tokens_go_on_without_a_pause_from_a_worker_that_is_told_to_stop(make_stack: MakeStack) -> None:
    stack = make_stack(workers=2)
    async with AsyncExitStack() as open_:
        process, viewers = await begin(stack, open_)
        process.terminate()
        began = time.monotonic()
        held = [viewer.position for viewer in viewers]
        for viewer, position in zip(viewers, held, strict=True):
            await viewer.until(lambda viewer, position=position: viewer.position > position)
        assert time.monotonic() - began < STOPPED
    for viewer in viewers:
        assert viewer.restarts == []
        assert viewer.text == unicode_text(TOKENS)
