"""Old processes give way to new ones under two hundred open streams."""

from __future__ import annotations

import asyncio
import random
import time
from itertools import count, takewhile

import httpx
import pytest

from caller import Caller, body, words
from reliability import MakeStack, rows, unicode_text
from stack import Stack
from viewer import DEADLINE, Viewer
from waiting import until

STREAMS = 200
HANDED_OVER = 2
"""Seconds after SIGTERM within which a stream is let go, and after its pause goes on elsewhere."""


class Follower:
    """A client that does as it is told: it goes on from its last id, elsewhere, after the pause that it was asked for.

    `handed_over` are the seconds that each change took, without that pause.
    """

    def __init__(self, stack: Stack, http: httpx.AsyncClient, run_id: str) -> None:
        self.viewer = Viewer(stack.key, run_id)
        self.viewer.http = http
        self.url = ""
        self.left = 0.0
        self.handed_over: list[float] = []
        self._stack = stack

    async def follow(self) -> None:
        async with asyncio.timeout(3 * DEADLINE):
            while self.viewer.end is None:
                self.url = random.choice(self._stack.urls)
                came = asyncio.create_task(self._came(self.left))
                try:
                    await self.viewer.read(self.url)
                except (httpx.ConnectError, httpx.RemoteProtocolError) as error:
                    if _answered(error):
                        raise
                    continue  # as browsers and balancers do
                finally:
                    came.cancel()  # where nothing came before it was let go again
                self.left = time.monotonic()
                if self.viewer.end is None:
                    await asyncio.sleep(self.viewer.retries[-1] / 1000)

    async def _came(self, left: float) -> None:
        began, held = time.monotonic(), self.viewer.cursor
        await self.viewer.until(lambda viewer: viewer.cursor != held)
        if left:
            self.handed_over.append(time.monotonic() - began)


def _answered(error: httpx.TransportError) -> bool:
    """False where it was refused, or reached a kept connection as that was closed: at a server that is just going."""
    return not isinstance(error, httpx.ConnectError) and "without sending a response" not in str(error)


class Posting:
    """Asks for runs all the while, each with a key of its own, and again where no answer came."""

    def __init__(self, stack: Stack, caller: Caller) -> None:
        self.keys: dict[str, str] = {}
        self.enough = False
        self._stack, self._caller = stack, caller

    async def go_on(self) -> None:
        for number in takewhile(lambda _: not self.enough, count()):
            key = f"order-{number}"
            while key not in self.keys:
                try:
                    url = f"{random.choice(self._stack.urls)}/v1/runs"
                    answer = await self._caller.http.post(url, json=body("sim:5"), headers={"Idempotency-Key": key})
                except httpx.TransportError:
                    continue
                assert answer.status_code == 202, answer.text
                self.keys[key] = answer.json()["id"]
            await asyncio.sleep(0.1)


@pytest.mark.promise("P1", "P2", "P4")
async def test_a_deploy_loses_nothing_and_shows_no_error_to_clients_that_follow_the_protocol(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(apis=4, workers=4, worker_grace=1, shutdown_grace=20)
    old_apis, old_workers = stack.apis[:2], stack.workers[:2]
    async with Caller(stack.urls[-1], stack.key, "acme", "ada") as caller:
        run_ids = await asyncio.gather(*(caller.create("unicode:80:4") for _ in range(STREAMS)))
        followers = [Follower(stack, caller.http, run_id) for run_id in run_ids]
        following = [asyncio.create_task(follower.follow()) for follower in followers]
        begun = asyncio.gather(*(each.viewer.until(lambda viewer: viewer.position > 1) for each in followers))
        ended, _ = await asyncio.wait([begun, *following], return_when=asyncio.FIRST_COMPLETED)
        for each in ended:
            each.result()  # of one whose following failed, why
        posting = Posting(stack, caller)
        posted = asyncio.create_task(posting.go_on())
        for api in old_apis:
            reading_it = [each for each in followers if each.url == api.url and each.viewer.end is None]
            assert len(reading_it) > STREAMS / 10
            told = time.monotonic()
            await asyncio.to_thread(stack.stop, api)
            await until(lambda told=told, left=reading_it: all(each.left > told for each in left), "all were let go")
            assert all(each.left - told < HANDED_OVER for each in reading_it)
        for worker in old_workers:
            assert await asyncio.to_thread(stack.stop, worker) == 0
        await asyncio.gather(*following)
        posting.enough = True
        await posted
        for each in followers:
            assert each.viewer.text == unicode_text(80)
            assert each.viewer.end
            assert each.viewer.end[0] == "run.completed"
            assert {restart["reason"] for restart in each.viewer.restarts} <= {"worker_stopped"}
        assert all(seconds < HANDED_OVER for each in followers for seconds in each.handed_over)
        pauses = [pause for each in followers for pause in each.viewer.retries]
        assert max(pauses) - min(pauses) > 1000, "they do not come back in one wave"
        assert min(pauses) >= 100
        assert max(pauses) <= 1500
        for run_id in posting.keys.values():
            assert (await caller.ended(run_id))["output"]["text"] == words(5)
        assert (await rows(stack, "select count(*) from runs"))[0][0] == STREAMS + len(posting.keys)
