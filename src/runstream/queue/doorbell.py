"""arq's worker, woken as soon as a job is there."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.jobs import deserialize_job_raw
from arq.worker import Worker, func
from redis.asyncio import Redis
from redis.exceptions import RedisError

from runstream.domain.errors import whereabouts
from runstream.queue.enqueue import loads, source
from runstream.queue.names import JOB, doorbell_key, owner, queue_key, taken_key
from runstream.redis_script import Script, Scripts

_POLL = 1.0
"""Longest wait at the doorbell, in seconds: deferred jobs come due without a ring."""
_ANSWER = 5.0
"""Seconds that Redis may take longer than asked for."""
_PAUSE = 0.5
_OWN_UP = 5.0
"""Seconds between two looks for jobs that were taken for this worker in an answer that it never got."""

log = structlog.get_logger(__name__)


class WokenWorker(Worker):
    """Takes jobs when the doorbell rings, as many as it has room for, in one call, by their tenants' turns.

    A job that was taken is due again at the time at which it counts as lost, and is noted as this worker's: should the
    worker be lost, it is due at once (`JobQueue.restore`). arq's counting of tries and its results are left out:
    Postgres knows the attempts.
    """

    def __init__(
        self,
        execute: Callable[[str, str], Awaitable[None]],
        redis: ArqRedis,
        bell: Redis,
        scripts: Scripts,
        *,
        worker: str,
        queue: str,
        max_jobs: int,
        job_timeout: float,
    ) -> None:
        """`execute` is given a tenant and the id of a run of its. `bell` must be without a read timeout.

        `job_timeout`, in seconds, is longer than any run may take.
        """

        async def job(ctx: dict[Any, Any], tenant: str, run_id: str) -> None:
            await execute(tenant, run_id)

        super().__init__(
            functions=[func(job, name=JOB)],
            queue_name=queue_key(queue),
            redis_pool=redis,
            handle_signals=False,
            max_jobs=max_jobs,
            job_timeout=job_timeout,
            poll_delay=0,
            job_deserializer=loads,
        )
        self._bell = bell
        self._bell_key = doorbell_key(queue)
        self._keys = [queue_key(queue), taken_key(queue, worker)]
        self._take = Script(scripts, source("claim.lua"))
        self._finish = Script(scripts, source("finish.lua"))
        self._restore = Script(scripts, source("restore.lua"))
        self._own_up_at = 0.0
        self._finished: list[str] = []
        self._slot_free = asyncio.Event()

    def stop_picking(self) -> None:
        """Take no more jobs; those that run go on."""
        self.allow_pick_jobs = False

    async def _poll_iteration(self) -> None:
        try:
            all_taken = await self._take_jobs()
            await self._forget()
            await self._own_up()
            await self.heart_beat()
            if all_taken:
                await self._wait()
        except (RedisError, OSError, TimeoutError) as error:
            self._own_up_at = 0.0
            log.warning("queue_unreachable", error=type(error).__name__)
            await asyncio.sleep(_PAUSE)

    async def _take_jobs(self) -> bool:
        """Take what there is room for; whether there is no more to be taken now."""
        room = self.max_jobs - self.job_counter
        if not self.allow_pick_jobs or room <= 0:
            return True
        again = int(self.in_progress_timeout_s * 1000)
        taken = await self._take(self._keys, [room, again, job_key_prefix])
        for job_id, job in zip(taken[::2], taken[1::2], strict=True):
            self._start(job_id.decode(), job)
        return len(taken) < 2 * room  # each with its id

    def _start(self, job_id: str, job: bytes) -> None:
        self.job_counter += 1
        task = self.loop.create_task(self._work(job_id, job))
        self.tasks[job_id] = task
        task.add_done_callback(partial(self._done, job_id))

    async def _work(self, job_id: str, job: bytes) -> None:
        """Run the job, and have it forgotten whatever became of it: the sweep sees to what is still to be done."""
        try:
            if job:
                name, arguments, _, _, _ = deserialize_job_raw(job, deserializer=self.job_deserializer)
                async with asyncio.timeout(self.job_timeout_s):
                    await self.functions[name].coroutine(self.ctx, owner(job_id), *arguments)
        except Exception as error:
            log.error("job_failed", job=job_id, **whereabouts(error))  # noqa: TRY400 - without what it says
        self._finished.append(job_id)
        await self._forget()

    async def _forget(self) -> None:
        """Have all that have finished by now forgotten, in one call; where Redis does not answer, with the next one."""
        finished, self._finished = self._finished, []
        try:
            if finished:
                await self._finish(self._keys, [job_key_prefix, *finished])
        except (RedisError, OSError, TimeoutError) as error:
            self._finished += finished
            log.warning("jobs_not_forgotten", jobs=len(finished), error=type(error).__name__)

    async def _own_up(self) -> None:
        """Give back what is noted as this worker's and is not at work here."""
        now = self.loop.time()
        if now >= self._own_up_at:
            await self._restore([self._keys[0], self._bell_key, self._keys[1]], [*self.tasks, *self._finished])
            self._own_up_at = now + _OWN_UP

    def _done(self, job_id: str, _task: asyncio.Task[None]) -> None:
        self.tasks.pop(job_id, None)
        self.job_counter -= 1
        self._slot_free.set()

    async def _wait(self) -> None:
        """Until a job may be there: at the doorbell, or while there is no room for one, until there is."""
        if self.allow_pick_jobs and self.job_counter < self.max_jobs:
            async with asyncio.timeout(_POLL + _ANSWER):
                await self._bell.execute_command("BLPOP", self._bell_key, _POLL)
            return
        self._slot_free.clear()
        try:
            async with asyncio.timeout(_POLL):
                await self._slot_free.wait()
        except TimeoutError:
            return
