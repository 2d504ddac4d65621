"""arq's worker, woken as soon as a job is there."""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from arq.worker import Worker, func
from redis.asyncio import Redis
from redis.exceptions import RedisError

from runstream.queue.enqueue import dumps, loads
from runstream.queue.names import JOB, doorbell_key, queue_key

_POLL = 1.0
"""Longest wait at the doorbell, in seconds: deferred jobs come due without a ring."""
_ANSWER = 5.0
"""Seconds that Redis may take longer than asked for."""
_PAUSE = 0.5

log = structlog.get_logger(__name__)


class WokenWorker(Worker):
    """Takes jobs when the doorbell rings, as many as it has room for, in one call.

    A job in progress moves to the time at which it counts as lost, instead of staying in the way of those behind
    it. What arq does with a job once it is taken stays as it is.
    """

    def __init__(
        self,
        execute: Callable[[str], Awaitable[None]],
        redis: ArqRedis,
        bell: Redis,
        *,
        queue: str,
        max_jobs: int,
        job_timeout: float,
    ) -> None:
        """`bell` must be without a read timeout. `job_timeout`, in seconds, is longer than any run may take."""

        async def job(ctx: dict[Any, Any], *args: Any, **_: Any) -> None:
            await execute(*args)

        super().__init__(
            functions=[func(job, name=JOB, max_tries=1000)],
            queue_name=queue_key(queue),
            redis_pool=redis,
            handle_signals=False,
            max_jobs=max_jobs,
            job_timeout=job_timeout,
            keep_result=0,
            poll_delay=0,
            job_serializer=dumps,
            job_deserializer=loads,
        )
        self._bell = bell
        self._bell_key = doorbell_key(queue)
        self._take = redis.register_script(files(__package__).joinpath("claim.lua").read_text())
        self._slot_free = asyncio.Event()

    def stop_picking(self) -> None:
        """Take no more jobs; those that run go on."""
        self.allow_pick_jobs = False

    async def _poll_iteration(self) -> None:
        try:
            taken = await self._take_jobs()
            self.reap()
            await self.heart_beat()
            if not taken:
                await self._wait()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("queue_unreachable", error=type(error).__name__)
            await asyncio.sleep(_PAUSE)

    async def _take_jobs(self) -> bool:
        room = self.max_jobs - self.job_counter
        if not self.allow_pick_jobs or room <= 0:
            return False
        again = int(self.in_progress_timeout_s * 1000)
        due = await self._take([self.queue_name], [room, again, in_progress_key_prefix])
        for job_id, score in zip(due[::2], due[1::2], strict=True):
            self._start(job_id.decode(), int(float(score)))
        return bool(due)

    def _start(self, job_id: str, score: int) -> None:
        self.job_counter += 1
        task = self.loop.create_task(self.run_job(job_id, score))
        task.add_done_callback(self._done)
        self.tasks[job_id] = task

    def _done(self, _task: asyncio.Task[None]) -> None:
        self.job_counter -= 1
        self._slot_free.set()

    def reap(self) -> None:
        """Forget the jobs that are done."""
        for job_id, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[job_id]
                if not task.cancelled() and (error := task.exception()):
                    log.error("job_failed", job=job_id, error=type(error).__name__)

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
