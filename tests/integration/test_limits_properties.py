"""Reserving, writing, settling, emptying and reading anew in any order, against what the tables add up to.

Hypothesis draws the order. Each move is one script or one statement of the product's own, so what happens in between is
all that can happen at the same time. A process may die between any two of its moves, and what it had to tell may come
late, twice, or never.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from runstream.counters.book import Book, Outcome
from runstream.domain.errors import LimitReached
from runstream.domain.limits import (
    Account,
    Hold,
    Limit,
    Measure,
    Party,
    Scope,
    Settlement,
    Take,
    Use,
    Window,
)
from runstream.domain.run import Ending, Generation, Request, Status
from runstream.domain.usage import ProviderCall, Usage
from runstream.gateway.admission import _check
from runstream.redis_script import Scripts
from runstream.runs.reconcile import Reconcile
from runstream.storage.budgets import BudgetStore
from runstream.storage.database import connect
from runstream.storage.runs import RunStore
from runstream.storage.tenancy import Role

DEADLINE = 60
TENANT = "acme"
REQUEST = Request("chat", "1", "sim:5", {"messages": []}, {})
LIMITS = (
    Limit(Scope.TENANT, Measure.TOKENS, Window.DAY, 200),
    Limit(Scope.USER, Measure.TOKENS, Window.MONTH, 130),
    Limit(Scope.TENANT, Measure.RUNS, None, 5),
)
READERS = (0, 1)

stories = st.lists(st.integers(0, 9999), min_size=30, max_size=60)
"""Which of the moves that make sense at that moment is made, one number a move."""
numbers = itertools.count()

Move = tuple[Any, ...]


class Reserved(NamedTuple):
    """A row that may still be written; `again` is the status of a run that is to be tried again."""

    hold: Hold
    again: Status | None


class Services:
    def __init__(self, runner: asyncio.Runner, database_url: str, redis_url: str) -> None:
        self.engine = connect(database_url, pool_size=3, timeout=DEADLINE, role=Role.APPLICATION)
        self.redis = Redis.from_url(redis_url)
        self.plain: asyncpg.Connection = runner.run(asyncpg.connect(database_url))
        self.scripts = Scripts(self.redis, timeout=DEADLINE)
        self.book = Book(self.redis, self.scripts)

    async def aclose(self) -> None:
        await self.scripts.aclose()
        await self.plain.close()
        await self.redis.aclose()
        await self.engine.dispose()


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        yield runner


@pytest.fixture
def services(
    runner: asyncio.Runner, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Services]:
    for name in ("_SETTLED", "_WRITTEN"):
        monkeypatch.setattr(f"runstream.runs.reconcile.{name}", timedelta(seconds=-5))
    services = Services(runner, database_url, redis_url)
    runner.run(services.plain.execute("insert into tenants (id) values ($1)", TENANT))
    yield services
    runner.run(services.aclose())


@pytest.mark.promise("P8")
def test_whatever_the_order_no_limit_is_passed_and_in_the_end_what_is_counted_is_what_was_spent(
    runner: asyncio.Runner, services: Services
) -> None:
    seen: Counter[str] = Counter()

    async def told(story: list[int]) -> None:
        async with asyncio.timeout(DEADLINE):
            world = World(services, seen, orderly=story[0] % 2 == 0)
            await world.start()
            for number in story:
                moves = world.moves()
                await world.make(moves[number % len(moves)])
                await world.assert_counted()
            await world.end()

    @settings(
        phases=[Phase.generate],
        derandomize=True,
        max_examples=120,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(stories)
    def tell(story: list[int]) -> None:
        runner.run(told(story))

    tell()
    missing = {"made", "refused", "stale", "alone", "again", "mended", "installed late", "counted"} - set(seen)
    assert not missing, seen


@pytest.mark.promise("P8")
def test_an_end_that_is_told_late_leaves_alone_what_is_reserved_for_the_next_attempt(
    runner: asyncio.Runner, services: Services
) -> None:
    async def story() -> int:
        book, party = services.book, Party(TENANT, "ada", "chat")
        at = await book.begin(TENANT, "read")
        assert at
        assert await book.install(TENANT, "read", 1, Account(at, [], {}), bounded=True)
        ended = Settlement(TENANT, "run_1", 0, 1, 7, 0, at, ended=True, reserved=True)
        assert (await book.reserve(Take("run_1", party, 20, 0), LIMITS)).outcome is Outcome.RESERVED
        await book.settle(ended)
        assert (await book.reserve(Take("run_1", party, 20, 0, settled=1), LIMITS)).outcome is Outcome.RESERVED
        await book.settle(ended)
        use = (await book.look(party, LIMITS)).uses[0]
        assert use.spent == 7
        return use.reserved

    assert runner.run(story()) == 20


@pytest.mark.promise("P8")
def test_however_many_runs_are_open_it_is_found_which_of_them_have_ended(
    runner: asyncio.Runner, services: Services
) -> None:
    async def story() -> dict[str, bool]:
        await RunStore(services.engine).insert(
            "run_1", tenant=TENANT, user="ada", request=REQUEST, queue="default", max_attempts=1
        )
        run_ids = ["run_1", *(f"run_{number:026}" for number in range(40_000))]
        return await BudgetStore(services.engine).standing(TENANT, run_ids, datetime.now(UTC))

    assert runner.run(story()) == {"run_1": False}


@pytest.mark.promise("P8")
def test_of_a_tenant_whose_counters_are_not_kept_no_run_is_open(runner: asyncio.Runner, services: Services) -> None:
    async def story() -> list[tuple[int, int]]:
        book, seen = services.book, []
        at = await book.begin(TENANT, "read")
        assert at
        assert await book.install(TENANT, "read", 1, Account(at, [], {}), bounded=True)
        await book.reserve(Take("run_1", Party(TENANT, "ada", "chat"), 20, 0), LIMITS)
        for _ in range(2):
            epoch, kept = await book.open_runs(TENANT)
            seen.append((epoch, len(kept)))
            await book.forget(TENANT, epoch)
        return seen

    assert runner.run(story()) == [(1, 1), (0, 0)]


class World:
    """A tenant, the processes that spend for it, and two that read its counters from Postgres."""

    def __init__(self, services: Services, seen: Counter[str], *, orderly: bool) -> None:
        """In an orderly one all is told at once, and nobody dies: then what is counted is right at every moment."""
        self._seen = seen
        self._orderly = orderly
        self._plain, self._redis, self._book = services.plain, services.redis, services.book
        self._store, self._budgets = RunStore(services.engine), BudgetStore(services.engine)
        self._reserved: list[Reserved] = []
        self._runs: dict[str, tuple[Status, int, str]] = {}
        self._untold: list[Settlement] = []
        self._reading: dict[int, tuple[str, datetime, tuple[int, Account] | None]] = {}

    async def start(self) -> None:
        await self._plain.execute("delete from ledger; delete from attempts; delete from runs")
        await self._redis.flushall()

    def moves(self) -> list[Move]:
        moves: list[Move] = [("flush",), ("reconcile",), ("expire",), ("alone", "ada"), ("alone", "bob")]
        moves += [("reserve", user, tokens) for user in ("ada", "bob") for tokens in (20, 40)] * 3
        for index in range(len(self._reserved)):
            moves += [("write", index)] * 4 + [("release", index)] + [("drop", index)] * (not self._orderly)
        for run_id, (status, _, _) in self._runs.items():
            if status is Status.QUEUED:
                moves += [("claim", run_id)] * 3 + [("cancel", run_id, told) for told in (True, self._orderly)]
            elif status is Status.RUNNING:
                moves += [
                    (step, run_id, told) for step in ("requeue", "finish") for told in (True, True, self._orderly)
                ]
            elif status is Status.FAILED:
                moves += [("again", run_id)] * 2
        moves += [("tell", index) for index in range(len(self._untold))]
        for reader in READERS:
            moves += [("read on", reader)] * 5
        return moves

    async def make(self, move: Move) -> None:
        await getattr(self, "_" + move[0].replace(" ", "_"))(*move[1:])

    async def _reserve(self, user: str, tokens: int) -> None:
        await self._hold(Take(f"run_{next(numbers):026}", Party(TENANT, user, "chat"), tokens, 0), None)

    async def _again(self, run_id: str) -> None:
        status, attempt, user = self._runs[run_id]
        if all(each.hold.take.run_id != run_id for each in self._reserved):
            await self._hold(Take(run_id, Party(TENANT, user, "chat"), 20, 0, attempt), status)

    async def _hold(self, take: Take, again: Status | None) -> None:
        answer = await self._book.reserve(take, LIMITS)
        if answer.outcome is Outcome.REFUSED:
            self._seen["refused"] += 1
        elif answer.outcome is Outcome.RESERVED:
            self._reserved.append(Reserved(Hold(take, answer.epoch, answer.at), again))
            await self._assert_within()

    async def _write(self, index: int) -> None:
        hold, again = self._reserved.pop(index)
        run_id, party = hold.take.run_id, hold.take.party
        if again is None:
            made = await self._insert(hold)
        else:
            _, attempt, _ = self._runs[run_id]
            made = await self._store.retry(TENANT, run_id, was=again, attempt=attempt, reason="retry", hold=hold)
            self._seen["again"] += bool(made)
        if made is None:
            self._seen["stale"] += 1
            await self._book.forget(TENANT, hold.epoch)
        else:
            self._seen["made"] += 1
            _, attempt, _ = self._runs.get(run_id, (None, 0, ""))
            self._runs[run_id] = (Status.QUEUED, attempt, party.user)

    async def _insert(self, hold: Hold) -> Any:
        return await self._store.insert(
            hold.take.run_id,
            tenant=TENANT,
            user=hold.take.party.user,
            request=REQUEST,
            queue="default",
            max_attempts=9,
            hold=hold,
        )

    async def _alone(self, user: str) -> None:
        """Without Redis."""
        take = Take(f"run_{next(numbers):026}", Party(TENANT, user, "chat"), 20, 0)
        hold = Hold(take, 0, datetime.now(UTC), check=lambda account: _check(take, LIMITS, account))
        try:
            assert await self._insert(hold)
        except LimitReached:
            return
        self._seen["alone"] += 1
        self._runs[take.run_id] = (Status.QUEUED, 0, user)
        await self._assert_within()

    async def _drop(self, index: int) -> None:
        del self._reserved[index]

    async def _release(self, index: int) -> None:
        hold, again = self._reserved.pop(index)
        if again is None:
            await self._book.release(hold.take, hold.epoch, hold.at)
        else:
            await self._book.forget(TENANT, hold.epoch)

    async def _claim(self, run_id: str) -> None:
        _, attempt, user = self._runs[run_id]
        assert await self._store.claim(TENANT, run_id, "wrk")
        self._runs[run_id] = (Status.RUNNING, attempt + 1, user)

    async def _requeue(self, run_id: str, told: bool) -> None:
        _, attempt, user = self._runs[run_id]
        done = await self._store.requeue(TENANT, run_id, attempt, reason="provider", delay=0, generation=spending(2, 1))
        self._runs[run_id] = (Status.QUEUED, attempt, user)
        await self._done(done, told)

    async def _finish(self, run_id: str, told: bool) -> None:
        _, attempt, user = self._runs[run_id]
        ending = Ending(Status.FAILED, attempt, [], error={"code": "x"}, generation=spending(5, 6))
        done = await self._store.end(TENANT, run_id, ending, was=Status.RUNNING, attempt=attempt)
        self._runs[run_id] = (Status.FAILED, attempt, user)
        await self._done(done, told)

    async def _cancel(self, run_id: str, told: bool) -> None:
        _, attempt, user = self._runs[run_id]
        ending = Ending(Status.FAILED, attempt + 1, [])
        done = await self._store.end(TENANT, run_id, ending, was=Status.QUEUED, attempt=attempt)
        self._runs[run_id] = (Status.FAILED, attempt + 1, user)
        await self._done(done, told)

    async def _done(self, done: Settlement | None, told: bool) -> None:
        assert done is not None
        assert done.reserved
        if told:
            await self._book.settle(done)
        else:
            self._untold.append(done)

    async def _tell(self, index: int) -> None:
        """Late; and it may be told again."""
        await self._book.settle(self._untold[index])

    async def _flush(self) -> None:
        await self._redis.flushall()

    async def _expire(self) -> None:
        await self._redis.delete(f"runstream:limits:{TENANT}:rebuilding")

    async def _reconcile(self) -> None:
        await self._redis.delete("runstream:looked:limits")
        before = await self._redis.hget(f"runstream:limits:{TENANT}", "epoch")
        await Reconcile(self._book, self._budgets)()
        self._seen["mended"] += before != await self._redis.hget(f"runstream:limits:{TENANT}", "epoch")

    async def _read_on(self, reader: int) -> None:
        """Begin to read, or read, or put in place what was read."""
        if reader not in self._reading:
            token = f"read_{next(numbers)}"
            if at := await self._book.begin(TENANT, token):
                self._reading[reader] = (token, at, None)
            return
        token, at, read = self._reading.pop(reader)
        if read is None:
            self._reading[reader] = (token, at, await self._budgets.read(TENANT, at, bounded=True))
        else:
            installed = await self._book.install(TENANT, token, *read, bounded=True)
            self._seen["installed" if installed else "installed late"] += 1

    async def _assert_within(self) -> None:
        """What was spent, what is reserved in rows and what may still be written, by the tables, fit the limits.

        But for what attempts before the last one took and nobody has counted: no run reserves for those.
        """
        epoch = await self._plain.fetchval("select budget_epoch from tenants where id = $1", TENANT)
        coming = [each.hold.take for each in self._reserved if each.hold.epoch == epoch]
        for limit in LIMITS:
            for user in ("ada", "bob"):
                use = await self._truth(limit, user)
                whose = [take for take in coming if limit.scope is Scope.TENANT or take.party.user == user]
                more = sum(take.of(limit.measure) for take in whose)
                slack = 0 if limit.measure is Measure.RUNS else sum(each.tokens for each in self._untold)
                assert use.spent + use.reserved + more - slack <= limit.most, (limit, use, more)

    async def _truth(self, limit: Limit, user: str) -> Use:
        mine = "true" if limit.scope is Scope.TENANT else f"user_id = '{user}'"
        spent = await self._plain.fetchval(
            f"select coalesce(sum(input_tokens + output_tokens), 0) from ledger where {mine}"
        )
        runs, tokens = await self._plain.fetchrow(
            "select count(*), coalesce(sum(reserved_tokens), 0) from runs"
            f" where status in ('queued', 'running') and {mine}"
        )
        if limit.measure is Measure.RUNS:
            return Use(limit, "", 0, runs, None)
        return Use(limit, "", int(spent), int(tokens), None)

    async def assert_counted(self) -> None:
        epoch = await self._plain.fetchval("select budget_epoch from tenants where id = $1", TENANT)
        for user in ("ada", "bob") if self._orderly else ():
            answer = await self._book.look(Party(TENANT, user, "chat"), LIMITS)
            if answer.outcome is Outcome.MISSING or answer.epoch != epoch:
                return
            self._seen["counted at once"] += 1
            coming = [each.hold.take for each in self._reserved if each.hold.epoch == epoch]
            for use in answer.uses:
                truth = await self._truth(use.limit, user)
                whose = [take for take in coming if use.limit.scope is Scope.TENANT or take.party.user == user]
                more = sum(take.of(use.limit.measure) for take in whose)
                assert (use.spent, use.reserved) == (truth.spent, truth.reserved + more), use

    async def end(self) -> None:
        """Whatever was never told: once the sweep has looked, what is counted is what the tables add up to."""
        self._reserved.clear()
        await self._redis.delete(f"runstream:limits:{TENANT}:rebuilding")
        await self._reconcile()
        party = Party(TENANT, "ada", "chat")
        answer = await self._book.look(party, LIMITS)
        if answer.outcome is Outcome.MISSING:
            self._reading.clear()
            for _ in range(3):
                await self._read_on(0)
            answer = await self._book.look(party, LIMITS)
        else:
            self._seen["counted"] += 1
        await self._finish_all()
        for user in ("ada", "bob"):
            answer = await self._book.look(Party(TENANT, user, "chat"), LIMITS)
            if answer.outcome is Outcome.MISSING:
                continue
            for use in answer.uses:
                truth = await self._truth(use.limit, user)
                assert (use.spent, use.reserved) == (truth.spent, 0), use

    async def _finish_all(self) -> None:
        for run_id, (status, _, _) in list(self._runs.items()):
            if status is Status.QUEUED:
                await self._claim(run_id)
            if status in {Status.QUEUED, Status.RUNNING}:
                await self._finish(run_id, told=True)


def spending(read: int, written: int) -> Generation:
    return Generation(calls=[ProviderCall("local", "sim:5", Usage(read, written))])
