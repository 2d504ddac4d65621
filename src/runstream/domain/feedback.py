"""What became of a run's answer where it was shown."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class FeedbackEvent(StrEnum):
    """`shown`, or a verdict."""

    SHOWN = "shown"
    ACCEPTED = "accepted"
    EDITED = "edited"
    DISCARDED = "discarded"


VERDICTS = frozenset(FeedbackEvent) - {FeedbackEvent.SHOWN}


@dataclass(frozen=True, slots=True)
class Given:
    """What is told at once. `text` is there where the event is `edited`; `rating` is -1, 0 or 1."""

    event: FeedbackEvent
    text: str | None = None
    rating: int | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class Feedback:
    """All that was told of one run: the last verdict, and the last of what else was said."""

    run_id: str
    user: str
    shown_at: datetime | None
    verdict: FeedbackEvent | None
    text: str | None
    rating: int | None
    comment: str | None
    created_at: datetime
    changed_at: datetime
