"""Look at runs and their attempts."""

from sqlalchemy import ColumnElement, String, bindparam, func, select

from runstream.domain.run import Status
from runstream.storage.statements.parts import ID, SHOWN, served
from runstream.storage.tables import attempts, runs, runs_are
from runstream.storage.tenancy import bound

_OWNED: tuple[ColumnElement[bool], ...] = (
    runs.c.tenant == bindparam("tenant"),
    runs.c.user_id == func.coalesce(bindparam("user", type_=String), runs.c.user_id),
)
"""By what an Owner has: of any user where it names none."""
EARLIER = bound(
    select(*SHOWN, runs.c.idempotency_hash).where(
        runs.c.tenant == bindparam("tenant"),
        runs.c.user_id == bindparam("user"),
        runs.c.idempotency_key == bindparam("key"),
    )
)
GET = bound(select(*SHOWN).where(*_OWNED, runs.c.id == ID))
FIND = select(*SHOWN).where(runs.c.id == ID)
STANDING = bound(
    select(
        runs.c.status, runs.c.attempt, runs.c.retried_attempt, runs.c.transcript, runs.c.transcript_removed_at
    ).where(*_OWNED, runs.c.id == ID)
)
STATUS = bound(select(runs.c.status, runs.c.attempt).where(runs.c.id == ID))
ATTEMPTS = bound(
    select(attempts)
    .where(attempts.c.tenant == bindparam("tenant"), attempts.c.run_id == ID)
    .order_by(attempts.c.attempt)
)
QUEUED = (
    select(runs.c.tenant, func.count().label("runs"))
    .where(runs_are(Status.QUEUED), runs.c.queue == bindparam("in_queue"), served(runs.c.tenant))
    .group_by(runs.c.tenant)
)
COUNTS = (
    select(runs.c.status, func.count().label("runs"))
    .where(runs_are(Status.QUEUED) | runs_are(Status.RUNNING))
    .group_by(runs.c.status)
)
