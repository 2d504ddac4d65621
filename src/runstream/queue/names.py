"""The names that the queue's parts share in Redis. What arq keeps of its own has arq's names."""

JOB = "execute"
"""The function that a worker runs for each job; its one argument is a run's id."""


def queue_key(queue: str) -> str:
    """The sorted set that arq keeps a queue's jobs in."""
    return f"runstream:queue:{queue}"


def doorbell_key(queue: str) -> str:
    """The list that an idle worker waits at."""
    return f"runstream:doorbell:{queue}"


def taken_key(queue: str, worker: str) -> str:
    """The set of the jobs that a worker has taken from a queue and is not done with."""
    return f"runstream:taken:{queue}:{worker}"


def control_channel(worker: str) -> str:
    """Where a worker is told at once what Postgres would tell it at its next heartbeat."""
    return f"runstream:worker:{worker}"
