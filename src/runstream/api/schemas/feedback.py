"""Feedback on runs, and what it adds up to."""

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from runstream.api.schemas.fields import Absent
from runstream.domain.feedback import Feedback, FeedbackEvent
from runstream.storage.feedback import FeedbackSum


class FeedbackRequest(BaseModel):
    """What became of an answer. What is left out, or null, stays as it was told before."""

    model_config = ConfigDict(extra="forbid")

    event: FeedbackEvent
    text: Annotated[
        str | None,
        Field(min_length=1, max_length=200_000, description="What was made of it: with `edited`, and only there."),
    ] = None
    rating: Annotated[StrictInt | None, Field(ge=-1, le=1, description="1 is good, -1 is bad.")] = None
    comment: Annotated[str | None, Field(min_length=1, max_length=4000)] = None


class FeedbackObject(BaseModel):
    """What was told of a run: when it was `shown` first, the last `verdict`, and the last of everything else."""

    object: Literal["feedback"] = "feedback"
    run: str
    user: str
    shown_at: datetime | None
    verdict: Literal[FeedbackEvent.ACCEPTED, FeedbackEvent.EDITED, FeedbackEvent.DISCARDED] | None
    text: str | None
    rating: int | None
    comment: str | None
    created_at: datetime
    changed_at: datetime

    @classmethod
    def of(cls, feedback: Feedback) -> "FeedbackObject":
        return cls.model_validate(
            {
                "run": feedback.run_id,
                **{name: getattr(feedback, name) for name in cls.model_fields if name not in {"object", "run"}},
            }
        )


class FeedbackCount(BaseModel):
    """Runs of one group of which something was told; the group's own fields are those that were asked for.

    `acceptance_rate` is the part of those with a verdict that were accepted, as they were or edited; `mean_rating` is
    that of the `rated`. Both are null where there are none.
    """

    feature: str | Absent = None
    prompt_version: str | Absent = None
    model: str | Absent = None
    day: date | Absent = None
    runs: int
    shown: int
    accepted: int
    edited: int
    discarded: int
    acceptance_rate: float | None
    rated: int
    mean_rating: float | None

    @classmethod
    def of(cls, sums: FeedbackSum) -> "FeedbackCount":
        kept = sums.accepted + sums.edited
        judged = kept + sums.discarded
        return cls.model_validate(
            {
                **sums.group,
                "runs": sums.runs,
                "shown": sums.shown,
                "accepted": sums.accepted,
                "edited": sums.edited,
                "discarded": sums.discarded,
                "acceptance_rate": kept / judged if judged else None,
                "rated": sums.rated,
                "mean_rating": None if sums.mean_rating is None else float(sums.mean_rating),
            }
        )


class FeedbackPage(BaseModel):
    """One entry for each group, in the order of `group_by`; a single one where nothing is asked for."""

    since: Annotated[datetime, Field(serialization_alias="from")]
    until: Annotated[datetime, Field(serialization_alias="to")]
    data: list[FeedbackCount]
