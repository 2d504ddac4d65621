"""Put a run's next attempt into the queue."""

import time
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import orjson
from arq.constants import job_key_prefix
from arq.jobs import serialize_job

from runstream.domain.run import Priority
from runstream.queue.names import JOB, doorbell_key, job_id, queue_key, taken_key
from runstream.redis_script import Script, Scripts

_BELLS = 32
"""More rings than this are not kept: one wakes a worker, which then takes all that it has room for."""
_KEEP = 24 * 3600
"""Seconds until Redis forgets a job that nobody took; the sweep enqueues it again."""


def dumps(job: dict[str, Any]) -> bytes:
    return orjson.dumps(job)


def loads(job: bytes) -> dict[str, Any]:
    loaded: dict[str, Any] = orjson.loads(job)
    return loaded


def source(name: str) -> str:
    """The source of one of the queue's Lua scripts."""
    here = files(__package__)
    return here.joinpath("turns.lua").read_text() + here.joinpath(name).read_text()


class JobQueue:
    """Jobs in arq's format, which tenants' turns are kept of: put in, and taken out, in one call.

    A job's id names the run and the attempt that it is for, so enqueueing it again changes nothing.
    """

    def __init__(self, scripts: Scripts) -> None:
        self._put = Script(scripts, source("enqueue.lua"))
        self._restore = Script(scripts, source("restore.lua"))
        self._depth = Script(scripts, source("depth.lua"))

    async def enqueue(
        self, run_id: str, attempt: int, queue: str, *, tenant: str, priority: Priority, delay: float = 0
    ) -> bool:
        """Make `attempt` due in `delay` seconds and wake a worker; False where it was in the queue already.

        Raises TimeoutError or redis' errors: the run is not lost then, the sweep finds it.
        """
        name = job_id(run_id, attempt, tenant=tenant, priority=priority)
        keys = [queue_key(queue), job_key_prefix + name, doorbell_key(queue)]
        job = serialize_job(JOB, (run_id,), {}, None, int(time.time() * 1000), serializer=dumps)
        ttl = int((delay + _KEEP) * 1000)
        return bool(await self._put(keys, [name, job, ttl, int(delay * 1000), _BELLS]))

    async def restore(self, lost: Iterable[str], queue: str) -> int:
        """Make due at once what workers that are gone had taken; answers how many jobs that were.

        A job whose run needs nothing any more is dropped by the worker that takes it. Raises TimeoutError or redis'
        errors.
        """
        taken = [taken_key(queue, worker) for worker in lost]
        return int(await self._restore([queue_key(queue), doorbell_key(queue), *taken], []))

    async def depth(self, queue: str) -> int:
        """Jobs that wait or are being run. Raises TimeoutError or redis' errors."""
        return int(await self._depth([queue_key(queue)], []))
