"""One run's steps in any order, by two workers who lose their leases, their answers and all that Redis holds.

Hypothesis draws the order. Each step is the product's own: one statement, one script, or one sweep. What happens in
between is all that can happen at the same time, because each of these is atomic. The clock is the database's and cannot
be set; a jump makes every time that it is compared with older instead, which comes to the same.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from letters import Letters, held_letters, letters_of
from runstream.api.events import frame
from runstream.counters.book import Book
from runstream.domain.cursor import Cursor
from runstream.domain.errors import Unavailable
from runstream.domain.events import DELTA, REASONING, RESTARTED, STARTED, TOOL_CALL
from runstream.domain.limits import Settlement
from runstream.domain.principal import Owner
from runstream.domain.run import Claim, Ending, Priority, Request, Status
from runstream.domain.usage import ProviderCall
from runstream.queue.enqueue import JobQueue
from runstream.queue.names import job_id, queue_key
from runstream.redis_script import Scripts
from runstream.runs.finish import end_unwritten, settle, terminal_event
from runstream.runs.reconcile import Reconcile
from runstream.runs.recover import Sweep
from runstream.storage.budgets import BudgetStore
from runstream.storage.database import connect
from runstream.storage.leases import LeaseStore
from runstream.storage.left_behind import LeftBehind
from runstream.storage.runs import RunStore
from runstream.storage.tenancy import Role
from runstream.stream.hub import Frame
from runstream.stream.log import Outcome, TokenLog
from runstream.stream.reader import join
from runstream.stream.writer import WriteLoop, Writer

DEADLINE = 20
LEASE = 60
"""Seconds: lapses by a jump, and by nothing else."""
TENANT = "acme"
QUEUE = "default"
ENDED = frozenset({"completed", "failed", "cancelled"})
ENDS = [("completed", False), ("failed", True), ("cancelled", False)]
"""How an attempt may settle, and whether the answer is lost."""
REQUEST = Request("chat", "1", "sim:5", {"messages": []}, {})

SAYINGS = (
    (DELTA, {"text": "a"}),
    (DELTA, {"text": "é🙂"}),
    (REASONING, {"text": "hm"}),
    (TOOL_CALL, {"index": 0, "id": "call_0", "name": "look_up"}),
    (TOOL_CALL, {"index": 0, "arguments": '{"é'}),
)

Move = tuple[Any, ...]

stories = st.lists(st.integers(0, 999), min_size=20, max_size=40)
"""Which of the moves that make sense at that moment is made, one number a move."""


class Row(NamedTuple):
    """The run as Postgres has it, read without the product."""

    status: str
    attempt: int
    cancelled: bool
    transcript: str | None
    due: bool
    retried: int


class Services:
    """Connections that outlive an example: opening them takes longer than most of them."""

    def __init__(self, runner: asyncio.Runner, database_url: str, redis_url: str) -> None:
        self.engines: list[AsyncEngine] = [
            connect(database_url, pool_size=2, timeout=DEADLINE, role=Role.APPLICATION) for _ in range(2)
        ]
        self.sweep = connect(database_url, pool_size=2, timeout=DEADLINE, role=Role.SWEEP)
        self.redis = Redis.from_url(redis_url)
        self.plain: asyncpg.Connection = runner.run(asyncpg.connect(database_url))

    async def aclose(self) -> None:
        await self.plain.close()
        await self.redis.aclose()
        for engine in (*self.engines, self.sweep):
            await engine.dispose()


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Runner]:
    monkeypatch.setattr("runstream.runs.finish._PAUSE", (0.001, 0.001))
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        yield runner


@pytest.fixture
def services(runner: asyncio.Runner, database_url: str, redis_url: str) -> Iterator[Services]:
    services = Services(runner, database_url, redis_url)
    runner.run(services.plain.execute("insert into tenants (id) values ($1)", TENANT))
    yield services
    runner.run(services.aclose())


numbers = itertools.count()


@pytest.mark.promise("P1", "P2", "P3")
def test_whatever_the_order_one_attempt_writes_and_the_run_ends_once(
    runner: asyncio.Runner, services: Services
) -> None:
    seen: Counter[str] = Counter()

    async def told(story: list[int]) -> None:
        async with asyncio.timeout(DEADLINE):
            world = World(services, seen)
            await world.start()
            for number in story:
                moves = await world.moves()
                await world.do(*moves[number % len(moves)])
            await world.end()

    @settings(derandomize=True, deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
    @given(story=stories)
    def hold(story: list[int]) -> None:
        runner.run(told(story))

    hold()
    assert set(seen) >= {"swept", "settled", "not settled", "retried", "kept", "APPENDED", "AHEAD", "LOST", "FENCED"}


class HardOfHearing(RunStore):
    """A store whose answers may be lost on their way: what was asked for was done."""

    deaf = False

    async def end(self, tenant: str, run_id: str, ending: Ending, **expected: Any) -> Settlement | None:
        answer = await super().end(tenant, run_id, ending, **expected)
        if self.deaf:
            self.deaf = False
            raise Unavailable
        return answer


class Mine:
    """An attempt as its worker sees it, until it learns that it has lost it."""

    def __init__(self, claim: Claim, writer: Writer) -> None:
        self.attempt = claim.attempt
        self.writer = writer
        self.settled = False


class Worker:
    def __init__(self, services: Services, engine: AsyncEngine) -> None:
        self.id = f"wrk_{next(numbers)}"
        self.store = HardOfHearing(engine)
        self.leases = LeaseStore(services.sweep)
        scripts = Scripts(services.redis, timeout=DEADLINE)
        self.log = TokenLog(services.redis, scripts, ttl=60, ended_ttl=60)
        self.loop = WriteLoop(self.log)
        self.jobs = JobQueue(scripts)
        self.book = Book(services.redis, scripts)
        self.attempts: list[Mine] = []
        self.sweep = Sweep(
            store=self.store,
            left=LeftBehind(services.sweep),
            leases=self.leases,
            jobs=self.jobs,
            token_log=self.log,
            book=self.book,
            reconcile=Reconcile(self.book, BudgetStore(engine)),
            queue=QUEUE,
            interval=1,
            steady=lambda: True,
            call_unseen=lambda run, usage, _=None: ProviderCall("local", run.model, usage),
        )


class World:
    """One run, the workers that come at it, and a reader of its log."""

    def __init__(self, services: Services, seen: Counter[str]) -> None:
        """`seen` counts what came to pass: stories in which nobody is ever fenced would show nothing."""
        self._seen = seen
        self._plain, self._redis = services.plain, services.redis
        self._run_id = f"run_{next(numbers)}"
        self._said: dict[int, Letters] = {}
        self._workers = [Worker(services, engine) for engine in services.engines]
        self._row = Row("queued", 0, False, None, True, 0)
        self._outcomes: dict[int, str] = {}
        self._cursor, self._heard = Cursor(0, 0), Letters()

    async def start(self) -> None:
        await self._plain.execute("delete from attempts; delete from runs; delete from workers")
        await self._redis.flushall()
        for each in self._workers:
            await self._renew(self._workers.index(each))
        await self._workers[0].store.insert(
            self._run_id, tenant=TENANT, user="ada", request=REQUEST, queue=QUEUE, max_attempts=6
        )

    async def moves(self) -> list[Move]:
        """What can happen now; what leads on stands there more than once, and what is in vain as well."""
        moves: list[Move] = [("jump", LEASE / 2), ("jump", 2 * LEASE), ("lose",), ("read",), ("cancel",)]
        moves += [("retry",)] * 6 if self._row.status in {"failed", "cancelled"} else []
        for number, each in enumerate(self._workers):
            moves += [("renew", number), ("release", number), ("claim", number, False)]
            moves += [("claim", number, True)] * (4 if self._row.status == "queued" else 1)
            moves += [("sweep", number)] * (6 if await self._lost() else 1)
            for index, mine in enumerate(each.attempts):
                if mine.writer.sent < mine.writer.transcript.end:
                    moves += [("send", number, index, heard) for heard in (True, True, True, False)]
                if not mine.settled:
                    next_up = mine.writer.transcript.end
                    moves += [("say", number, index, SAYINGS[(next_up + n) % len(SAYINGS)]) for n in (0, 1)]
                    moves += [("give back", number, index, delay) for delay in (0.0, 30.0)]
                    moves += [("settle", number, index, status, deaf) for status, deaf in ENDS]
        return moves

    async def do(self, name: str, *arguments: Any) -> None:
        self._left = await held_letters(self._redis, self._run_id)
        await getattr(self, f"_{name.replace(' ', '_')}")(*arguments)
        await self._check(name)

    async def end(self) -> None:
        """Time passes, a worker comes and does what is to be done: then the run has ended, or ends now."""
        for _ in range(2):
            for name, *arguments in [("jump", 2.0 * LEASE), ("renew", 0), ("sweep", 0)]:
                await self.do(name, *arguments)
        if self._row.status == "queued":
            job = job_id(self._run_id, self._row.attempt, tenant=TENANT, priority=Priority.DEFAULT)
            due = await self._redis.zscore(f"{queue_key(QUEUE)}:due:{TENANT}", job)
            assert due is not None, "a run that waits has a job"
            await self.do("claim", 0, True)
        if self._row.status == "running":
            await self.do("settle", 0, 0, "completed", False)
        assert self._row.status in ENDED
        await self._send(0, 0, True)
        await self._read()

    # What happens

    async def _claim(self, number: int, heard: bool) -> None:
        each, before = self._workers[number], self._row
        claim = await each.store.claim(TENANT, self._run_id, each.id)
        assert (claim is not None) == (before.status == "queued" and before.due)
        if claim is None:
            return
        assert claim.attempt == before.attempt + 1
        self._said[claim.attempt] = []
        if heard:
            mine = Mine(claim, each.loop.open(self._run_id, claim.attempt, lambda: None))
            each.attempts.insert(0, mine)
            self._append(mine, STARTED if claim.attempt == 1 else RESTARTED, {"attempt": claim.attempt})

    async def _say(self, number: int, index: int, said: tuple[str, dict[str, Any]]) -> None:
        mine = self._mine(number, index)
        if mine and not mine.settled:
            self._append(mine, *said)

    async def _send(self, number: int, index: int, heard: bool) -> None:
        """What the write loop does with one writer, once; without its answer where that is lost."""
        mine = self._mine(number, index)
        if mine is None or mine.writer.fenced or mine.writer.sent >= mine.writer.transcript.end:
            return
        held = await held_letters(self._redis, self._run_id)
        (answer,) = await self._workers[number].log.append([mine.writer.pending()])
        if held and held[0] > mine.attempt:
            assert answer.outcome is Outcome.FENCED
        elif answer.outcome is Outcome.APPENDED:
            assert answer.end == mine.writer.transcript.end
        self._seen[answer.outcome.name] += 1
        if heard:
            mine.writer.settle(answer)

    async def _settle(self, number: int, index: int, status: str, deaf: bool) -> None:
        mine = self._mine(number, index)
        if mine is None or mine.settled:
            return
        each, before = self._workers[number], self._row
        event, data = terminal_event(Status(status)), {"partial": True}
        transcript = mine.writer.transcript
        ending = Ending(Status(status), mine.attempt, [*transcript.dump(), [event, data]], output=transcript.text())
        each.store.deaf = deaf
        written = await settle(each.store, TENANT, self._run_id, ending) is not None
        each.store.deaf = False
        own = (before.status, before.attempt) == ("running", mine.attempt)
        same = (before.status, before.attempt) == (status, mine.attempt)
        assert written == (own or (deaf and same))
        self._seen["settled" if written else "not settled"] += 1
        if not written:
            self._forget(number, mine)
            return
        mine.settled = True
        self._append(mine, event, data)

    async def _give_back(self, number: int, index: int, delay: float) -> None:
        mine = self._mine(number, index)
        if mine is None or mine.settled:
            return
        before = self._row
        given = await self._workers[number].store.requeue(
            TENANT, self._run_id, mine.attempt, reason="stopped", delay=delay
        )
        own = (before.status, before.attempt) == ("running", mine.attempt)
        assert bool(given) == (own and not before.cancelled)
        if given:
            self._forget(number, mine)

    async def _cancel(self) -> None:
        """As the API does it, for a run as it stands."""
        store, before = self._workers[0].store, self._row
        if before.status == "queued":
            run = await store.get(Owner(TENANT, None), self._run_id)
            assert run
            first = self._workers[0]
            assert await end_unwritten(store, first.log, first.book, run, status=Status.CANCELLED, reason="cancelled")
        else:
            assert (await store.request_cancel(TENANT, self._run_id) is not None) == (before.status == "running")

    async def _retry(self) -> None:
        before = self._row
        run = (
            await self._workers[0].store.retry(
                TENANT, self._run_id, was=Status(before.status), attempt=before.attempt, reason="retry"
            )
            if before.status in {"failed", "cancelled"}
            else None
        )
        self._seen["retried"] += run is not None

    async def _renew(self, number: int) -> None:
        """As the lease is renewed: what is not held any more is given up, what is held unknowingly is let go."""
        each = self._workers[number]
        held = {(run_id, attempt) for run_id, attempt, _ in await each.leases.renew(each.id, "host", LEASE)}
        assert held == ({(self._run_id, self._row.attempt)} if await self._holds(each) else set())
        for mine in list(each.attempts):
            if (self._run_id, mine.attempt) not in held and not mine.settled:
                self._forget(number, mine)
        known = {(self._run_id, mine.attempt) for mine in each.attempts}
        for run_id, attempt in held - known:
            assert await each.leases.let_go(each.id, run_id, attempt)

    async def _release(self, number: int) -> None:
        each = self._workers[number]
        await each.leases.release(each.id)

    async def _jump(self, seconds: float) -> None:
        await self._plain.execute("update workers set lease_until = lease_until - make_interval(secs => $1)", seconds)
        await self._plain.execute(
            "update runs set available_at = available_at - make_interval(secs => $1),"
            " enqueued_at = enqueued_at - make_interval(secs => $1)",
            seconds,
        )

    async def _sweep(self, number: int) -> None:
        """A run is taken from a worker whose lease has lapsed, and from no other."""
        before, lost = self._row, await self._lost()
        await self._workers[number].sweep.once()
        after = await self._read_row()
        assert ((after.status, after.attempt) != (before.status, before.attempt)) == lost
        self._seen["swept"] += lost

    async def _lose(self) -> None:
        await self._redis.flushall()

    async def _read(self) -> None:
        """A reader goes on in history: nothing is repeated, skipped, or of an attempt that is over."""
        entries, _ = await self._workers[0].log.read(self._run_id, self._cursor)
        frames, gap = join(self._cursor, [Frame(entry, frame(entry)) for entry in entries], frame)
        assert not gap
        for entry, _ in frames:
            assert entry.cursor > self._cursor
            fresh = entry.attempt > self._cursor.attempt
            self._heard = (Letters() if fresh else self._heard) + letters_of(entry.type, json.loads(entry.data))
            self._cursor = entry.cursor
            assert len(self._heard) == self._cursor.position
            assert self._heard == self._said[entry.attempt][: len(self._heard)]

    # What must hold after each step

    async def _check(self, name: str) -> None:
        before, self._row = self._row, await self._read_row()
        now = self._row
        assert (now.status, now.attempt) == (before.status, before.attempt) or (
            _legal(before, now) and (name == "retry") == (before.status in ENDED)
        ), f"{before} became {now} by {name}"
        if before.status in ENDED and now.status in ENDED:
            assert now._replace(due=before.due) == before, "an end stays as it is"
        if now.status in ENDED and now.attempt not in self._said:
            self._said[now.attempt] = _all_letters(now)
            self._check_what_is_kept(before)
        await self._check_attempts()
        await self._check_log()

    def _check_what_is_kept(self, before: Row) -> None:
        """An end that nobody wrote holds what the log had of the last attempt, unless that one's end was taken back."""
        attempt, letters = self._left or (0, Letters())
        counts = attempt == before.attempt > before.retried
        kept = [letter for letter in letters if _is_said(letter)] if counts else []
        opening = 1 if before.attempt else 0
        assert self._said[self._row.attempt][opening:-1] == kept
        self._seen["kept"] += bool(kept)

    async def _check_attempts(self) -> None:
        query = "select attempt, outcome from attempts where run_id = $1 order by attempt"
        outcomes = {row["attempt"]: row["outcome"] for row in await self._plain.fetch(query, self._run_id)}
        writing = [attempt for attempt, outcome in outcomes.items() if outcome == "running"]
        assert writing == ([self._row.attempt] if self._row.status == "running" else [])
        closed = {attempt: outcome for attempt, outcome in self._outcomes.items() if outcome != "running"}
        assert closed.items() <= outcomes.items(), "what came of an attempt stays as it is"
        self._outcomes = outcomes

    async def _check_log(self) -> None:
        held = await held_letters(self._redis, self._run_id)
        if held is None:
            return
        attempt, letters = held
        assert attempt <= self._row.attempt
        assert letters == self._said[attempt][: len(letters)]
        if self._row.status in ENDED and attempt == self._row.attempt:
            assert letters == _all_letters(self._row)[: len(letters)], "it is what the row holds, as far as it goes"

    # What the test knows

    def _mine(self, number: int, index: int) -> Mine | None:
        attempts = self._workers[number].attempts
        return attempts[index] if index < len(attempts) else None

    def _forget(self, number: int, mine: Mine) -> None:
        self._workers[number].attempts.remove(mine)

    def _append(self, mine: Mine, type_: str, data: dict[str, Any]) -> None:
        mine.writer.append(type_, data)
        self._said[mine.attempt] += letters_of(type_, data)

    async def _read_row(self) -> Row:
        row = await self._plain.fetchrow(
            "select status, attempt, cancel_requested_at is not null, transcript, available_at <= now(),"
            " coalesce(retried_attempt, 0)"
            " from runs where id = $1",
            self._run_id,
        )
        return Row(*row)

    async def _lost(self) -> bool:
        query = (
            "select not exists (select from workers where id = runs.worker and lease_until >= now())"
            " from runs where id = $1 and status = 'running'"
        )
        return bool(await self._plain.fetchval(query, self._run_id))

    async def _holds(self, each: Worker) -> bool:
        query = "select exists (select from runs where id = $1 and status = 'running' and worker = $2)"
        return bool(await self._plain.fetchval(query, self._run_id, each.id))


def _legal(before: Row, now: Row) -> bool:
    """Whether a run may be changed so: a new attempt where one begins, or ends that nobody wrote."""
    more = now.attempt - before.attempt
    if before.status == "queued":
        return more == 1 and now.status != "queued"
    if before.status == "running":
        return (more == 0 and now.status != "running") or (more == 1 and now.status in {"failed", "cancelled"})
    return more == 0 and before.status != "completed" and now.status == "queued"


def _is_said(letter: str) -> bool:
    return len(letter) <= 2 or json.loads(letter)[0] == TOOL_CALL


def _all_letters(row: Row) -> Letters:
    return [letter for type_, data in json.loads(row.transcript or "[]") for letter in letters_of(type_, data)]
