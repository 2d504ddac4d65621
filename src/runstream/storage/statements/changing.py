"""Count a change of terms, in the statement that makes it: who raises the version commits before the next one does."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert

from runstream.storage.tables import terms

RAISED = (
    upsert(terms)
    .values(version=1)
    .on_conflict_do_update(index_elements=[terms.c.one], set_={"version": terms.c.version + 1})
    .returning(terms.c.version)
    .cte("raised")
)
VERSION = select(RAISED.c.version).scalar_subquery()
"""What it was raised to."""
COUNTED = VERSION > 0
"""Always so, and asked first: all changes lock the count before anything else, and so none waits in a circle."""
