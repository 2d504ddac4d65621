"""Jobs of several tenants in any order of what can happen to them, beside a model that says who is next.

Hypothesis draws the order. Each step is one of the queue's own scripts, on a real server; a jump makes due what is due
later. Steps are a millisecond apart, as the server's clock tells no shorter times from each other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from arq.constants import job_key_prefix
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from runstream.domain.run import Priority
from runstream.queue.enqueue import JobQueue, source
from runstream.queue.names import doorbell_key, job_id, queue_key, taken_key
from runstream.redis_script import Script, Scripts

DEADLINE = 20
QUEUE = "default"
LOST = 1000 * 1000
"""Milliseconds: by a jump, and by nothing else."""
TENANTS = ("a", "b", "c:d")
WORKERS = ("w1", "w2")
WEIGHTS = {"add": 6, "claim": 5, "finish": 5, "add again": 2, "jump": 1, "die": 1, "own up": 1, "expire": 1, "flush": 1}

stories = st.lists(
    st.tuples(st.sampled_from([name for name, weight in WEIGHTS.items() for _ in range(weight)]), st.integers(0, 999)),
    min_size=20,
    max_size=50,
)


@dataclass(frozen=True, order=True)
class Place:
    """Where a due job stands among its tenant's."""

    priority: int
    since: int
    job: str


@dataclass
class Model:
    """What the queue is to do, told in another way: by looking at everything each time. Times are steps."""

    due: dict[str, dict[str, Place]] = field(default_factory=dict)
    later: dict[str, int | None] = field(default_factory=dict)
    """Jobs, and since when they are due after all."""
    at_work: dict[str, set[str]] = field(default_factory=lambda: {tenant: set() for tenant in TENANTS})
    changed: dict[str, int] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    """Jobs that say what is to be done."""

    def add(self, job: str, now: int, *, delayed: bool) -> bool:
        waits, is_due = job in self.due.get(_tenant(job), {}), self.later.get(job) is not None
        is_before = is_due or (delayed and job in self.later)  # a delay of the test's is longer than any
        if (waits or is_before) and job in self.stored:
            return False
        self.stored.add(job)
        if delayed and not waits:
            self.later[job] = None
        elif not waits:
            self.later.pop(job, None)
            self._make_due(job, now, now)
        return True

    def claim(self, most: int, now: int) -> list[tuple[str, bool]]:
        """Each job that is taken, and whether it says what is to be done."""
        for job, since in list(self.later.items()):
            if since is not None:
                del self.later[job]
                self._make_due(job, since, now)
        taken: list[tuple[str, bool]] = []
        while len(taken) < most and any(self.due.values()):
            tenant = min(filter(self.due.get, self.due), key=self._turn)
            job = min(self.due[tenant].values()).job
            del self.due[tenant][job]
            self.later[job] = None
            self.at_work[tenant].add(job)
            self.changed[tenant] = now
            taken.append((job, job in self.stored))
        return taken

    def finish(self, job: str, now: int) -> None:
        tenant = _tenant(job)
        if job in self.at_work[tenant] or job in self.due.get(tenant, {}):
            self.changed[tenant] = now
        self.later.pop(job, None)
        self.at_work[tenant].discard(job)
        self.due.get(tenant, {}).pop(job, None)
        self.stored.discard(job)

    def restore(self, jobs: set[str], now: int) -> int:
        lost = [job for job in jobs if job in self.later]
        for job in lost:
            del self.later[job]
            self._make_due(job, now, now)
        return len(lost)

    def _make_due(self, job: str, since: int, now: int) -> None:
        tenant = _tenant(job)
        waiting = self.due.setdefault(tenant, {})
        if job in self.at_work[tenant] or not waiting:
            self.changed[tenant] = now
        self.at_work[tenant].discard(job)
        waiting[job] = Place(int(job.split(":")[2]), since, job)

    def _turn(self, tenant: str) -> tuple[int, int, str]:
        return len(self.at_work[tenant]), self.changed[tenant], tenant


def _tenant(job: str) -> str:
    return job.split(":", 3)[3]


class World:
    def __init__(self, redis: Redis, seen: Counter[str]) -> None:
        """`seen` counts what came to pass."""
        self._redis = redis
        self._seen = seen
        self._connection = Scripts(redis, timeout=DEADLINE)
        self._jobs = JobQueue(self._connection)
        self._scripts = {
            name: Script(self._connection, source(f"{name}.lua")) for name in ("claim", "finish", "restore")
        }
        self._model = Model()
        self._all: list[str] = []
        self._done: set[str] = set()
        self._taken: dict[str, set[str]] = {worker: set() for worker in WORKERS}
        """As Redis notes it; a worker that died comes again under its name."""
        self._at_work: dict[str, list[str]] = {worker: [] for worker in WORKERS}
        self._step = 0

    async def told(self, story: list[tuple[str, int]]) -> None:
        await self._redis.flushall()
        for name, number in story:
            await self._do(name, number)
        await self._drain()
        assert await self._redis.keys() in ([], [doorbell_key(QUEUE).encode()]), "nothing is left"
        await self._connection.aclose()

    async def _do(self, name: str, number: int) -> None:
        await self._tick()
        await getattr(self, f"_{name.replace(' ', '_')}")(number)
        model = self._model
        assert await self._jobs.depth(QUEUE) == len(model.later) + sum(map(len, model.due.values()))

    async def _drain(self) -> None:
        """All that was asked for comes out."""
        while True:
            await self._do("jump", 0)
            await self._do("claim", 5)
            if not any(self._at_work.values()):
                break
            for number, worker in enumerate(WORKERS):
                while self._at_work[worker]:
                    await self._do("finish", number)
        for number in range(len(WORKERS)):
            await self._do("own up", number)
        assert self._done == set(self._all), "none is lost"

    async def _tick(self) -> None:
        """Until the server's clock has gone on."""
        self._step += 1
        began = await self._milliseconds()
        while await self._milliseconds() == began:
            await asyncio.sleep(0.001)

    async def _milliseconds(self) -> int:
        seconds, microseconds = await self._redis.time()
        return seconds * 1000 + microseconds // 1000

    # What happens

    async def _add(self, number: int) -> None:
        tenant = TENANTS[0] if number % 2 else TENANTS[number % len(TENANTS)]
        priority = list(Priority)[number % 7 % 3]
        job = job_id(f"run_{len(self._all):03}", 0, tenant=tenant, priority=priority)
        self._all.append(job)
        await self._enqueue(job, delayed=number % 5 == 0)

    async def _add_again(self, number: int) -> None:
        if waiting := [job for job in self._all if job not in self._done]:
            await self._enqueue(waiting[number % len(waiting)], delayed=number % 5 == 0)

    async def _enqueue(self, job: str, *, delayed: bool) -> None:
        run_id, attempt, priority, tenant = job.split(":", 3)
        delay = 10 * LOST / 1000 if delayed else 0
        new = await self._jobs.enqueue(
            run_id, int(attempt), QUEUE, tenant=tenant, priority=Priority(int(priority)), delay=delay
        )
        assert new == self._model.add(job, self._step, delayed=delayed)
        self._seen["there already"] += not new

    async def _claim(self, number: int) -> None:
        worker, most = WORKERS[number % 2], 1 + number % 7
        keys = [queue_key(QUEUE), taken_key(QUEUE, worker)]
        taken = await self._scripts["claim"](keys, [most, LOST, job_key_prefix])
        jobs = [job.decode() for job in taken[::2]]
        assert list(zip(jobs, map(bool, taken[1::2]), strict=True)) == self._model.claim(most, self._step)
        assert not self._done & {job for job, said in zip(jobs, taken[1::2], strict=True) if said}, "none comes twice"
        self._taken[worker] |= set(jobs)
        self._at_work[worker] += jobs
        self._seen["claimed"] += len(jobs)
        self._seen["of several"] += len({_tenant(job) for job in jobs}) > 1

    async def _finish(self, number: int) -> None:
        worker = WORKERS[number % 2]
        if not self._at_work[worker]:
            return
        job = self._at_work[worker].pop(number % len(self._at_work[worker]))
        keys = [queue_key(QUEUE), taken_key(QUEUE, worker)]
        await self._scripts["finish"](keys, [job_key_prefix, job])
        self._model.finish(job, self._step)
        self._taken[worker].discard(job)
        self._done.add(job)

    async def _jump(self, _: int) -> None:
        now = await self._milliseconds()
        later = [job for job, due in self._model.later.items() if due is None]
        if later:
            await self._redis.zadd(queue_key(QUEUE), dict.fromkeys(later, now))
            self._model.later |= dict.fromkeys(later, self._step)
            await self._tick()

    async def _die(self, number: int) -> None:
        """What it does is not done, and it is not heard of again."""
        worker = WORKERS[number % 2]
        self._at_work[worker].clear()
        lost, self._taken[worker] = self._taken[worker], set()
        restored = await self._jobs.restore([worker], QUEUE)
        assert restored == self._model.restore(lost, self._step)
        self._seen["restored"] += restored

    async def _own_up(self, number: int) -> None:
        """It has never heard of some of what it took."""
        worker = WORKERS[number % 2]
        self._at_work[worker] = self._at_work[worker][number % 3 :]
        known = set(self._at_work[worker])
        keys = [queue_key(QUEUE), doorbell_key(QUEUE), taken_key(QUEUE, worker)]
        given_back = await self._scripts["restore"](keys, [*known])
        assert given_back == self._model.restore(self._taken[worker] - known, self._step)
        self._taken[worker] &= known

    async def _expire(self, number: int) -> None:
        if stored := sorted(self._model.stored):
            await self._redis.delete(job_key_prefix + stored[number % len(stored)])
            self._model.stored.remove(stored[number % len(stored)])

    async def _flush(self, number: int) -> None:
        if number % 4:
            return
        await self._redis.flushall()
        self._model = Model()
        self._taken = {worker: set() for worker in WORKERS}
        await self._sweep()

    async def _sweep(self) -> None:
        for job in self._all:
            if job not in self._done:
                await self._tick()
                await self._enqueue(job, delayed=False)


@pytest.mark.promise("P1", "P7")
def test_jobs_are_taken_by_turns_of_their_tenants_and_none_is_lost_or_left(redis_url: str) -> None:
    seen: Counter[str] = Counter()
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        redis: Redis = Redis.from_url(redis_url)

        async def told(story: list[tuple[str, int]]) -> None:
            async with asyncio.timeout(DEADLINE):
                await World(redis, seen).told(story)

        @settings(derandomize=True, deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
        @given(story=stories)
        def hold(story: list[tuple[str, int]]) -> None:
            runner.run(told(story))

        hold()
        runner.run(redis.aclose())
    assert all(seen[what] > 10 for what in ("claimed", "of several", "restored", "there already")), seen


async def take(redis: Redis, worker: str, most: int) -> list[Any]:
    async with aclosing(Scripts(redis, timeout=DEADLINE)) as scripts:
        claim = Script(scripts, source("claim.lua"))
        return await claim([queue_key(QUEUE), taken_key(QUEUE, worker)], [most, LOST, job_key_prefix])


async def test_jobs_that_an_earlier_version_has_put_in_are_taken_and_forgotten(redis_url: str) -> None:
    """They stand in the queue itself, due, and their ids say no more than run and attempt."""
    async with Redis.from_url(redis_url) as redis:
        ids = [f"run_{number}:0" for number in range(3)]
        for number, each in enumerate(ids):
            await redis.zadd(queue_key(QUEUE), {each: 1_700_000_000_000 + number})
            await redis.psetex(job_key_prefix + each, 60_000, b"job")
        taken = await take(redis, "w1", 5)
        assert [job.decode() for job in taken[::2]] == ids
        assert taken[1::2] == [b"job"] * 3
        async with aclosing(Scripts(redis, timeout=DEADLINE)) as scripts:
            finish = Script(scripts, source("finish.lua"))
            await finish([queue_key(QUEUE), taken_key(QUEUE, "w1")], [job_key_prefix, *ids])
        assert await redis.keys() == []


@pytest.mark.promise("P7")
async def test_a_tenant_that_comes_gets_the_next_slot_though_another_has_thousands_waiting(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis, aclosing(Scripts(redis, timeout=DEADLINE)) as scripts:
        jobs = JobQueue(scripts)
        for number in range(2000):
            await jobs.enqueue(f"run_{number:04}", 0, QUEUE, tenant="many", priority=Priority.HIGH)
        await take(redis, "w1", 3)
        await jobs.enqueue("run_9999", 0, QUEUE, tenant="one", priority=Priority.LOW)
        (job, _) = await take(redis, "w1", 1)
    assert job == b"run_9999:0:1:one"
