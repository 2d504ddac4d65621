"""What was told of runs, one row for each, and what that adds up to."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import Any, Final

from sqlalchemy import Boolean, ColumnElement, Date, Row, String, bindparam, case, cast, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.audit import Entry
from runstream.domain.feedback import VERDICTS, Feedback, FeedbackEvent, Given
from runstream.domain.principal import Owner
from runstream.storage.audit import ask_noting
from runstream.storage.content import FEEDBACK, PLAIN, Content
from runstream.storage.database import ask
from runstream.storage.tables import feedback, runs
from runstream.storage.tenancy import bound
from runstream.storage.turns import Turns


class FeedbackDimension(StrEnum):
    """What feedback can be told apart by; a day is one of UTC, that of the first that was told of a run."""

    FEATURE = "feature"
    PROMPT_VERSION = "prompt_version"
    MODEL = "model"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class FeedbackSum:
    """Runs that something was told of: how many were shown, and of how many each was the verdict.

    `mean_rating` is of the `rated`, from -1 to 1; None where there are none.
    """

    group: Mapping[FeedbackDimension, str]
    runs: int
    shown: int
    accepted: int
    edited: int
    discarded: int
    rated: int
    mean_rating: Decimal | None


def _given(name: str) -> ColumnElement[Any]:
    return bindparam(f"{name}_given", type_=feedback.c[name].type)


_OF = ("run_id", "tenant", "user_id", "feature", "prompt_version", "model")
_RUN = (
    select(runs.c.id.label("run_id"), *(runs.c[name] for name in _OF[1:]))
    .where(
        runs.c.id == bindparam("of_run"),
        runs.c.tenant == bindparam("of_tenant"),
        runs.c.user_id == func.coalesce(bindparam("of_user", type_=String), runs.c.user_id),
    )
    .cte("of_run")
)
_INSERTED = upsert(feedback).from_select(
    [*_OF, "shown_at", "verdict", "text", "rating", "comment"],
    select(
        *(_RUN.c[name] for name in _OF),
        case((bindparam("was_shown", type_=Boolean), func.now())),
        *(_given(name) for name in ("verdict", "text", "rating", "comment")),
    ),
)
_NEW = _INSERTED.excluded
_KEPT = (
    _INSERTED.on_conflict_do_update(
        index_elements=[feedback.c.run_id],
        set_={
            "shown_at": func.coalesce(feedback.c.shown_at, _NEW.shown_at),
            "verdict": func.coalesce(_NEW.verdict, feedback.c.verdict),
            "text": case((_NEW.verdict.is_(None), feedback.c.text), else_=_NEW.text),
            "rating": func.coalesce(_NEW.rating, feedback.c.rating),
            "comment": func.coalesce(_NEW.comment, feedback.c.comment),
            "changed_at": func.now(),
        },
    )
    .returning(feedback)
    .cte("kept")
)
_STATE = func.coalesce(_KEPT.c.verdict, FeedbackEvent.SHOWN)
_GIVE = bound(select(_KEPT)).add_cte(
    update(runs)
    .where(runs.c.id == _KEPT.c.run_id, runs.c.feedback.is_distinct_from(_STATE))
    .values(feedback=_STATE)
    .cte("marked")
)
"""A row for the run, or what is new in the one there is; and where that stands, in the run."""
_COLUMNS: Final[Mapping[FeedbackDimension, ColumnElement[Any]]] = {
    FeedbackDimension.FEATURE: feedback.c.feature,
    FeedbackDimension.PROMPT_VERSION: feedback.c.prompt_version,
    FeedbackDimension.MODEL: feedback.c.model,
    FeedbackDimension.DAY: cast(func.timezone("UTC", feedback.c.created_at), Date),
}
_PLACE = (feedback.c.created_at, feedback.c.run_id)
_PAGE = 20
"""A text may have 200,000 characters, and a page is held whole."""
_SUMS = (
    func.count(),
    func.count(feedback.c.shown_at),
    *(
        func.count().filter(feedback.c.verdict == verdict)
        for verdict in (FeedbackEvent.ACCEPTED, FeedbackEvent.EDITED, FeedbackEvent.DISCARDED)
    ),
    func.count(feedback.c.rating),
    func.avg(feedback.c.rating),
)


class FeedbackStore:
    """Every method raises Unavailable, of it ContentUnreadable where a text is encrypted and its key is not there."""

    def __init__(self, engine: AsyncEngine, content: Content = PLAIN) -> None:
        self._content = content
        self._ask = partial(ask, engine)
        self._change = partial(ask_noting, engine)
        self._turns = Turns()

    async def give(self, owner: Owner, run_id: str, given: Given, *, entry: Entry | None = None) -> Feedback | None:
        """What is then known of the run; None where it is not there. Given twice it is as if given once."""
        said = {"text": given.text, "comment": given.comment}
        sealed = await self._content.sealed(FEEDBACK, owner.tenant, run_id, said)
        rows = await self._change(
            _GIVE,
            entry,
            whose=[owner.tenant],
            of_run=run_id,
            of_tenant=owner.tenant,
            of_user=owner.user,
            was_shown=given.event is FeedbackEvent.SHOWN,
            verdict_given=given.event if given.event in VERDICTS else None,
            text_given=sealed["text"],
            rating_given=given.rating,
            comment_given=sealed["comment"],
        )
        return await self._feedback(rows[0]) if rows else None

    async def get(self, owner: Owner, run_id: str) -> Feedback | None:
        query = bound(select(feedback).where(feedback.c.run_id == run_id, feedback.c.tenant == owner.tenant))
        if owner.user is not None:
            query = query.where(feedback.c.user_id == owner.user)
        rows = await self._ask(query, whose=[owner.tenant])
        return await self._feedback(rows[0]) if rows else None

    async def all(self, tenant: str, user: str | None, before: datetime) -> AsyncIterator[Feedback]:
        """What was told of the tenant's runs, or of that user's, up to then, in pages of a bounded size."""
        query = select(feedback).where(feedback.c.tenant == tenant, feedback.c.created_at <= before)
        if user is not None:
            query = query.where(feedback.c.user_id == user)
        query = query.order_by(*_PLACE).limit(_PAGE)
        rows = await self._ask(bound(query), whose=[tenant])
        while rows:
            for row in rows:
                yield await self._feedback(row)
            beyond = tuple_(*_PLACE) > (rows[-1].created_at, rows[-1].run_id)
            rows = await self._ask(bound(query.where(beyond)), whose=[tenant])

    async def _feedback(self, row: Row[Any]) -> Feedback:
        said = await self._content.opened(FEEDBACK, row.tenant, row.run_id, row._mapping)
        return _feedback(row, text=said["text"], comment=said["comment"])

    async def sums(
        self, owner: Owner, by: Sequence[FeedbackDimension], *, since: datetime, until: datetime, limit: int
    ) -> list[FeedbackSum]:
        """Of the owner's runs of which something was told first from `since` on and before `until`, by group."""
        groups = [_COLUMNS[dimension] for dimension in by]
        query = bound(
            select(*groups, *_SUMS)
            .where(feedback.c.tenant == owner.tenant, feedback.c.created_at >= since, feedback.c.created_at < until)
            .group_by(*groups)
            .order_by(*groups)
            .limit(limit)
        )
        if owner.user is not None:
            query = query.where(feedback.c.user_id == owner.user)
        async with self._turns.of(owner.tenant):
            return [_sum(by, row) for row in await self._ask(query, whose=[owner.tenant])]


def _feedback(row: Row[Any], *, text: str | None, comment: str | None) -> Feedback:
    return Feedback(
        run_id=row.run_id,
        user=row.user_id,
        shown_at=row.shown_at,
        verdict=None if row.verdict is None else FeedbackEvent(row.verdict),
        text=text,
        rating=row.rating,
        comment=comment,
        created_at=row.created_at,
        changed_at=row.changed_at,
    )


def _sum(by: Sequence[FeedbackDimension], row: Sequence[Any]) -> FeedbackSum:
    group = {dimension: str(value) for dimension, value in zip(by, row, strict=False)}
    return FeedbackSum(group, *row[len(by) :])
