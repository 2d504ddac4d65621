"""Give back a run whose content cannot be opened: it waits for its key, and fails for nothing."""

import structlog

from runstream.counters.book import Book
from runstream.domain.errors import ContentUnreadable
from runstream.domain.run import Outcome
from runstream.runs.finish import count
from runstream.storage.run_content import Unread
from runstream.storage.runs import RunStore

_DELAYS = (5.0, 3600.0)
"""Seconds to the next attempt: after the first, twice as long each time, and the longest."""

log = structlog.get_logger(__name__)


async def give_back(store: RunStore, book: Book, run: Unread) -> None:
    """The attempt does not count among those that it is given. Raises Unavailable: then the lease lets go of it."""
    first, longest = _DELAYS
    delay = min(first * 2 ** min(run.attempt - 1, 10), longest)
    log.error("run_not_readable", run_id=run.run_id, tenant=run.tenant, retry_in=delay)
    given_back = await store.requeue(
        run.tenant,
        run.run_id,
        run.attempt,
        reason=ContentUnreadable.code,
        delay=delay,
        outcome=Outcome.HANDED_BACK,
        given_back=True,
    )
    if given_back is not None:  # else it was to be stopped, which the sweep does
        await count(book, given_back)
