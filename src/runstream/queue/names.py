"""The names that the queue's parts share in Redis. What arq keeps of its own has arq's names."""

from runstream.domain.run import Priority

JOB = "execute"
"""The function that a worker runs for each job; its one argument is a run's id."""

TERMS_CHANNEL = "runstream:terms"
"""Where all processes are told that the terms of tenants are others."""


def queue_key(queue: str) -> str:
    """The sorted set of a queue's jobs that are due later. `turns.lua` names what else there is after it."""
    return f"runstream:queue:{queue}"


def job_id(run_id: str, attempt: int, *, tenant: str, priority: Priority) -> str:
    """The same for whoever enqueues the attempt; `turns.lua` reads whose it is."""
    return f"{run_id}:{attempt}:{priority}:{tenant}"


def owner(job: str) -> str:
    """The tenant that a job's id names; of one that names none, nobody."""
    return [*job.split(":", 3), *[""] * 3][3]


def doorbell_key(queue: str) -> str:
    """The list that an idle worker waits at."""
    return f"runstream:doorbell:{queue}"


def taken_key(queue: str, worker: str) -> str:
    """The set of the jobs that a worker has taken from a queue and is not done with."""
    return f"runstream:taken:{queue}:{worker}"


def control_channel(worker: str) -> str:
    """Where a worker is told at once what Postgres would tell it at its next heartbeat."""
    return f"runstream:worker:{worker}"
