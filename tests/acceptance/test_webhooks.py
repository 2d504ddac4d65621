"""An application's server is told of its runs by workers that may die at any moment."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from standardwebhooks import WebhookVerificationError

from caller import Caller
from receiver import Receiver, hang, receiving, status
from reliability import rows
from runstream.crash_points import Point
from runstream.domain.principal import Scope
from stack import Stack

OLDER = "update webhook_deliveries set due_at = due_at - interval '1 minute' where status = 'pending'"


@pytest.fixture(scope="module")
def standing(make_shared_stack: Callable[..., Stack]) -> Stack:
    return make_shared_stack(workers=0, webhook_private="true")


@pytest.fixture
def stack(standing: Stack) -> Any:
    """One API process, to which each test adds workers."""
    yield standing
    for process in standing.workers:
        standing.kill(process)


def a_tenant(stack: Stack) -> Caller:
    """Of the test's own: it has no webhooks but those that the test makes."""
    return Caller.server(stack, f"tenant-{uuid4().hex}", scopes=Scope)


async def worker(stack: Stack, **environment: str) -> Any:
    return await asyncio.to_thread(stack.start_worker, **environment)


async def webhook(caller: Caller, receiver: Receiver, **asked: Any) -> dict[str, Any]:
    answer = await caller.http.post("/v1/webhooks", json={"url": receiver.url, **asked})
    return answer.raise_for_status().json()


async def delivered(caller: Caller, path: str, count: int) -> list[dict[str, Any]]:
    """The deliveries, once so many have come to their end."""

    async def page() -> list[dict[str, Any]]:
        answer = await caller.http.get(f"{path}/deliveries", params={"status": "delivered"})
        return answer.raise_for_status().json()["data"]

    while len(found := await page()) < count:
        await asyncio.sleep(0.05)
    return found


async def test_a_server_is_told_of_its_runs_and_verifies_it(stack: Stack) -> None:
    async with receiving() as receiver, a_tenant(stack) as caller, asyncio.timeout(60):
        await worker(stack)
        new = await webhook(caller, receiver, include_output=True)
        path = f"/v1/webhooks/{new['id']}"
        run = await caller.ended(await caller.create("sim:3", metadata={"order": "933"}))
        (delivery,) = await delivered(caller, path, 1)
        (told,) = [each.verified_by(new["secret"]) for each in receiver.received]
        assert (told["type"], told["timestamp"]) == ("run.completed", run["finished_at"])
        assert told["data"] == {name: run[name] for name in told["data"]}
        assert told["data"]["output"] == run["output"]
        assert (delivery["run"], delivery["status"]) == (run["id"], "delivered")
        assert [each["status"] for each in delivery["attempts"]] == [204]

        rotated = (await caller.http.post(f"{path}/rotate", json={"overlap": 3600})).json()
        again = await caller.http.post(f"{path}/deliveries/{delivery['id']}/redeliver")
        assert (again.status_code, again.json()["status"]) == (202, "pending")
        (await caller.http.post(f"{path}/test")).raise_for_status()
        await delivered(caller, path, 2)
        assert sorted(receiver.ids).count(delivery["id"]) == 2
        for each in receiver.received[1:]:
            assert each.verified_by(new["secret"]) == each.verified_by(rotated["secret"])
        last = (await caller.http.post(f"{path}/rotate", json={"overlap": 0})).json()
        (await caller.http.post(f"{path}/test")).raise_for_status()
        await delivered(caller, path, 3)
        receiver.received[-1].verified_by(last["secret"])
        with pytest.raises(WebhookVerificationError):
            receiver.received[-1].verified_by(rotated["secret"])


@pytest.mark.promise("P1")
async def test_a_webhook_whose_worker_is_killed_in_the_middle_of_it_is_delivered_by_another(stack: Stack) -> None:
    async with receiving(hang) as receiver, a_tenant(stack) as caller, asyncio.timeout(60):
        new = await webhook(caller, receiver)
        doomed = await worker(stack)
        run_id = await caller.create("sim:3")
        (first,) = await receiver.until(1)
        stack.kill(doomed)
        receiver.behave = status(200)
        await worker(stack)
        await rows(stack, OLDER)
        (delivery,) = await delivered(caller, f"/v1/webhooks/{new['id']}", 1)
        assert (delivery["run"], [each["status"] for each in delivery["attempts"]]) == (run_id, [200])
        assert receiver.ids == [first.id, first.id]


async def test_a_webhook_that_was_taken_and_not_written_down_comes_again_with_the_same_id(stack: Stack) -> None:
    async with receiving() as receiver, a_tenant(stack) as caller, asyncio.timeout(60):
        new = await webhook(caller, receiver)
        doomed = await worker(stack, crash_at=Point.WEBHOOK_ANSWERED)
        await caller.create("sim:3")
        assert await asyncio.to_thread(doomed.wait) == -signal.SIGKILL
        stack.kill(doomed)
        await worker(stack)
        await rows(stack, OLDER)
        (delivery,) = await delivered(caller, f"/v1/webhooks/{new['id']}", 1)
        assert receiver.ids == [delivery["id"]] * 2


async def test_a_run_that_no_worker_took_up_is_told_of_when_it_is_cancelled(stack: Stack) -> None:
    async with receiving() as receiver, a_tenant(stack) as caller, asyncio.timeout(60):
        new = await webhook(caller, receiver, events=["run.cancelled"])
        run_id = await caller.create("sim:3")
        await caller.cancel(run_id)
        await worker(stack)
        (delivery,) = await delivered(caller, f"/v1/webhooks/{new['id']}", 1)
        assert (delivery["run"], receiver.received[0].told["data"]["status"]) == (run_id, "cancelled")
