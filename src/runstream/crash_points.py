"""Instants at which a test has this process die, so that what it left behind can be seen.

The code says `reached(Point.SETTLE_WRITTEN)` where a crash would be the most awkward. That costs next to nothing and
does nothing, unless the process was started with `RUNSTREAM_CRASH_AT`, which takes one point:

    settle.written         SIGKILL, the first time that it is reached
    settle.written:3       the third time
    settle.written:1:stop  SIGSTOP: it stands still there until somebody sends it SIGCONT
"""

import os
import signal
from enum import StrEnum

from runstream.domain.errors import ConfigurationError


class Point(StrEnum):
    """Where a process can be made to die. Each has a test that has it die there."""

    SUBMIT_RESERVED = "submit.reserved"
    """Limits are reserved for a run, and its row is not there."""
    SUBMIT_COMMITTED = "submit.committed"
    """A run's row is there, its job is not."""
    SUBMIT_ENQUEUED = "submit.enqueued"
    """A run will be run, and who asked for it has no answer."""
    CLAIM_BEGUN = "claim.begun"
    """A job was taken from the queue, its run was not."""
    CLAIM_COMMITTED = "claim.committed"
    """A run is this worker's, and nothing was said of it."""
    ANSWER_KNOWN = "answer.known"
    """A provider said what its answer can be read on by, and nobody has written it down."""
    FIRST_TOKEN = "token.first"  # noqa: S105 - a model's token
    """The model began to answer, and nobody has seen it."""
    SETTLE_BEGUN = "settle.begun"
    """All was said, and the row does not know."""
    SETTLE_WRITTEN = "settle.written"
    """The row has the end, and nobody was told."""
    SETTLE_ANNOUNCED = "settle.announced"
    """The end is known to all, but the job is not done."""
    RETRY_REQUEUED = "retry.requeued"
    """A worker gave its run back or will try again, and there is no job for it."""
    SWEEP_REQUEUED = "sweep.requeued"
    """A lost worker's run is queued again, without a job."""
    SWEEP_MARKED = "sweep.marked"
    """A queued run counts as enqueued anew, and is not."""
    UNWRITTEN_ENDED = "unwritten.ended"
    """The row has the end of a run that no worker writes, and nobody was told."""
    LEASE_RENEWED = "lease.renewed"
    """The lease was renewed, and what its answer says has had no effect."""
    CANCEL_MARKED = "cancel.marked"
    """A run is marked to be stopped, and its worker was not told."""
    AGAIN_COMMITTED = "again.committed"
    """A run that had ended is queued for another attempt, without a job."""
    DELETE_ASKED = "delete.asked"
    """A run is to be deleted, and is still there."""
    DELETE_COMMITTED = "delete.committed"
    """A run's row is gone, and Redis still has what it said."""
    WEBHOOK_ANSWERED = "webhook.answered"
    """A webhook's receiver has answered, and nobody has written that down."""
    RESEAL_WRITTEN = "reseal.written"
    """A batch of rows is encrypted anew, and others are not."""


class _Trap:
    """What this process was told to die of."""

    point: Point | None = None
    passes = 0
    signal = signal.SIGKILL

    def spring(self) -> None:
        self.passes -= 1
        if self.passes == 0:
            os.kill(os.getpid(), self.signal)


_trap = _Trap()


def reached(point: Point) -> None:
    if point is _trap.point:
        _trap.spring()


def arm(crash_at: str | None) -> None:
    """Have this process die as the setting says. Raises ConfigurationError."""
    if crash_at is None:
        return
    name, _, rest = crash_at.partition(":")
    passes, _, mode = rest.partition(":")
    try:
        armed = Point(name), int(passes or 1), {"": signal.SIGKILL, "stop": signal.SIGSTOP}[mode]
    except (ValueError, KeyError):
        raise ConfigurationError(
            "RUNSTREAM_CRASH_AT is not a point such as settle.written, or :2:stop after it."
        ) from None
    _trap.point, _trap.passes, _trap.signal = armed
