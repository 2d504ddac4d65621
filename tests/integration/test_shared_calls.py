"""What a call comes to for those who share it, in one worker: the one that began it goes, or its target does."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from redis.asyncio import Redis

from caller import words
from in_process import DEADLINE, TENANT, InProcessWorker, working
from raw_server import raw_server
from runstream.domain.run import Caching
from runstream.domain.usage import Rates
from runstream.gateway.routes import TargetConfig
from runstream.runs.sharing.call import call_name
from stack import POLL
from waiting import until

LONG = 60
"""Tokens of an answer that is long enough to be kept."""
PRICED = TargetConfig("p/*", price=Rates(Decimal(1), Decimal(2)))
COST = (Decimal(1) + 2 * LONG) / 1_000_000

ERRORS = "select error->>'code' as code from attempts where run_id = $1"


async def begin(worker: InProcessWorker, model: str) -> tuple[str, asyncio.Task[None]]:
    """A run that shares its call, and its attempt."""
    run_id = await worker.create("Hello", model=model, cache=Caching.READ)
    return run_id, asyncio.create_task(worker.execute(TENANT, run_id))


async def said(worker: InProcessWorker, run_id: str) -> None:
    """Wait until it has been given something."""
    async with asyncio.timeout(DEADLINE):
        while len(await worker.events(run_id)) < 2:
            await asyncio.sleep(POLL)


async def test_runs_that_are_given_an_answer_save_what_it_cost_at_its_target(database_url: str, redis_url: str) -> None:
    async with working(database_url, redis_url, targets=[PRICED]) as worker:
        begun = [await begin(worker, f"sim:{LONG}:200") for _ in range(3)]
        await asyncio.gather(*(attempt for _, attempt in begun))
        late, attempt = await begin(worker, f"sim:{LONG}:200")
        await attempt
        lines = [line for run_id, _ in begun for line in await worker.ledger(run_id)] + list(await worker.ledger(late))
        assert sorted((line["cost"], line["saved_cost"] or 0) for line in lines) == [(0, COST)] * 3 + [(COST, 0)]
        assert len(worker.asked) == 1


async def test_a_call_that_its_provider_ended_after_its_run_was_cancelled_is_paid_for_as_reported(
    database_url: str, redis_url: str
) -> None:
    """Redis is slow to say whether anybody else reads it."""
    async with (
        working(database_url, redis_url, targets=[PRICED]) as worker,
        Redis.from_url(redis_url) as redis,
    ):
        run_id, attempt = await begin(worker, f"sim:{LONG}:200")
        await said(worker, run_id)
        await redis.execute_command("CLIENT", "PAUSE", 700, "ALL")
        worker.execute.cancel(run_id)
        await attempt
        assert (await worker.get(run_id)).status == "cancelled"

        async def paid() -> bool:
            (line,) = await worker.ledger(run_id)
            return (line["output_tokens"], line["estimated"], line["cost"]) == (LONG, False, COST)

        await until(paid)
        assert [call["ending"] for call in worker.simulator.record.told()["calls"]] == ["finish"]
        assert (await worker.get(run_id)).cost == COST


async def test_a_call_whose_target_gives_way_after_its_run_was_cancelled_is_paid_for_where_it_was_made(
    database_url: str, redis_url: str
) -> None:
    refusing = asyncio.Event()

    async def refuse(writer: asyncio.StreamWriter) -> None:
        await refusing.wait()
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    targets = [TargetConfig("q/*", price=PRICED.price), PRICED]
    async with (
        raw_server(refuse) as raw,
        working(database_url, redis_url, targets=targets, addresses={"q": raw.url}) as worker,
    ):
        cancelled, attempt = await begin(worker, f"sim:{LONG}:200")
        await until(lambda: len(raw.requests) == 1)
        given, other = await begin(worker, f"sim:{LONG}:200")
        await until(lambda: shared(worker, given))
        worker.execute.cancel(cancelled)
        await attempt
        assert [line["provider"] for line in await worker.ledger(cancelled)] == ["q"]
        refusing.set()
        await other
        assert (await worker.get(given)).output == words(LONG)

        async def paid() -> bool:
            lines = await worker.ledger(cancelled)
            return sorted((line["provider"], line["output_tokens"], line["cost"] or 0) for line in lines) == [
                ("p", LONG, COST),
                ("q", 0, 0),
            ]

        await until(paid)
        assert (await worker.get(cancelled)).cost == COST


async def test_who_shares_a_call_of_a_process_that_it_does_not_understand_tries_again(
    database_url: str, redis_url: str
) -> None:
    async with (
        Redis.from_url(redis_url) as redis,
        working(database_url, redis_url) as other,
        working(database_url, redis_url) as worker,
    ):
        making, attempt = await begin(other, "hang:5")
        await said(other, making)
        sharing, shares = await begin(worker, "hang:5")
        await until(lambda: shared(worker, sharing))
        (asking,) = await redis.keys("runstream:asking:*")
        call = (await redis.get(asking)).decode()
        await redis.xadd(f"runstream:run:{call}", {"e": "0 run.completed {}"}, id="1-1")
        async with asyncio.timeout(DEADLINE):
            await shares
        run = await worker.get(sharing)
        assert (run.status, run.attempt) == ("queued", 1)
        assert [found["code"] for found in await worker.rows(ERRORS, sharing)] == ["shared_call_lost"]
        other.execute.cancel(making)
        await attempt


async def test_who_shares_a_call_whose_log_is_taken_away_tries_again(database_url: str, redis_url: str) -> None:
    async with (
        Redis.from_url(redis_url) as redis,
        working(database_url, redis_url) as other,
        working(database_url, redis_url) as worker,
    ):
        making, attempt = await begin(other, "hang:5")
        await said(other, making)
        sharing, shares = await begin(worker, "hang:5")
        await until(lambda: shared(worker, sharing))
        log = f"runstream:run:{call_name(making, 1)}"
        await redis.xadd(log, {"e": '0 run.delta {"text":"w0 "}'}, id="1-3")
        await said(worker, sharing)
        await redis.delete(log)
        await redis.xadd(log, {"e": "0 run.restarted {}"}, id="2-1")
        async with asyncio.timeout(DEADLINE):
            await shares
        assert [found["code"] for found in await worker.rows(ERRORS, sharing)] == ["shared_call_lost"]
        other.execute.cancel(making)
        await attempt


async def test_each_who_shares_a_call_is_told_of_what_it_is_refused_for(database_url: str, redis_url: str) -> None:
    async with working(database_url, redis_url, moderation="flags:s3") as worker:
        begun = [await begin(worker, "sentences:40:100") for _ in range(3)]
        await asyncio.gather(*(attempt for _, attempt in begun))
        shown = "".join(f"This is s{number}. " for number in range(3))
        for run_id, _ in begun:
            run = await worker.get(run_id)
            assert (run.status, run.error["code"], run.output) == ("failed", "content_blocked", shown)
            assert run.findings == [{"name": "violence", "action": "refuse", "where": "output", "messages": []}]
        assert len(worker.asked) == 1
        await until(lambda: worker.simulator.stats()["closed_by_client"] == 1)
        again, attempt = await begin(worker, "sentences:40:100")
        await attempt
        assert not (await worker.get(again)).cached
        assert len(worker.asked) == 2


async def shared(worker: InProcessWorker, run_id: str) -> bool:
    """Whether its row says that it is given another one's answer."""
    found = await worker.rows("select shared from attempts where run_id = $1", run_id)
    return any(attempt["shared"] for attempt in found)
