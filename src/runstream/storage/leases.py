"""Which workers are alive, by the database's clock."""

from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import Interval, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.run import Status
from runstream.storage.database import answering
from runstream.storage.tables import runs, runs_are, workers


class Held(NamedTuple):
    """A run that the database says this worker writes."""

    run_id: str
    attempt: int
    cancel_requested: bool


_UNTIL = func.now() + bindparam("seconds", type_=Interval)
_RENEW = (
    upsert(workers)
    .values(id=bindparam("worker_id"), host=bindparam("on_host"), lease_until=_UNTIL)
    .on_conflict_do_update(index_elements=[workers.c.id], set_={"lease_until": _UNTIL})
)
_HELD = select(runs.c.id, runs.c.attempt, runs.c.cancel_requested_at.is_not(None)).where(
    runs.c.worker == bindparam("worker_id"), runs_are(Status.RUNNING)
)
_DEAD = select(workers.c.id).where(workers.c.lease_until < func.now())
_NOBODY = "nobody"
"""A worker that never has a lease: what it holds counts as lapsed."""
_LET_GO = (
    update(runs)
    .where(
        runs.c.id == bindparam("run_id"),
        runs.c.status == Status.RUNNING,
        runs.c.worker == bindparam("worker_id"),
        runs.c.attempt == bindparam("held_attempt"),
    )
    .values(worker=_NOBODY)
)


class LeaseStore:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def renew(self, worker: str, host: str, seconds: float) -> list[Held]:
        """Hold the lease for `seconds` from now on; answers the runs that are this worker's."""
        lease = {"worker_id": worker, "on_host": host, "seconds": timedelta(seconds=seconds)}
        with answering():
            async with self._engine.connect() as connection:
                await connection.execute(_RENEW, lease)
                rows = (await connection.execute(_HELD, {"worker_id": worker})).all()
        return [Held(*row) for row in rows]

    async def let_go(self, worker: str, run_id: str, attempt: int) -> bool:
        """Leave this one run to be taken up as if the worker's lease had lapsed; False where it is not held."""
        held = {"worker_id": worker, "run_id": run_id, "held_attempt": attempt}
        with answering():
            async with self._engine.connect() as connection:
                result = await connection.execute(_LET_GO, held)
        return bool(result.rowcount == 1)

    async def release(self, worker: str) -> None:
        """End the lease at once: what this worker still holds is free to be taken up."""
        statement = update(workers).where(workers.c.id == worker).values(lease_until=func.now())
        with answering():
            async with self._engine.connect() as connection:
                await connection.execute(statement)

    async def dead(self) -> list[str]:
        """The workers whose lease has lapsed and that are not forgotten yet."""
        with answering():
            async with self._engine.connect() as connection:
                return [row.id for row in await connection.execute(_DEAD)]

    async def forget_dead(self, after: float) -> None:
        """Drop the rows of workers whose lease lapsed more than `after` seconds ago and that hold no run."""
        busy = select(runs.c.worker).where(runs_are(Status.RUNNING))
        statement = delete(workers).where(
            workers.c.lease_until < func.now() - timedelta(seconds=after), workers.c.id.not_in(busy)
        )
        with answering():
            async with self._engine.connect() as connection:
                await connection.execute(statement)
