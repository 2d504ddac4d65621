"""What is added up, by which groups and of which time, as a request says it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, TypeVar

from runstream.domain.errors import InvalidField

MOST: Final = 10_000
"""Groups of an answer."""
_DEFAULT = timedelta(days=30)

DimensionT = TypeVar("DimensionT", bound=StrEnum)


def dimensions(kind: type[DimensionT], group_by: str) -> Sequence[DimensionT]:
    """In the order in which they were named, each once. Raises InvalidField."""
    names = [name.strip() for name in group_by.split(",") if name.strip()]
    try:
        return [kind(name) for name in dict.fromkeys(names)]
    except ValueError:
        raise InvalidField(f"group_by takes any of {', '.join(kind)}.", param="group_by") from None


def period(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    """Until now, and from 30 days before, where it is not said. Raises InvalidField."""
    until = until or datetime.now(UTC)
    since = since or _before(until)
    if since > until:
        raise InvalidField("This time begins after its end: give a 'from' before 'to'.", param="from")
    return since, until


def check_few(groups: Sequence[object]) -> None:
    """Raises InvalidField."""
    if len(groups) > MOST:
        raise InvalidField(f"These are more than {MOST} groups: ask for a shorter time.", param="group_by")


def _before(until: datetime) -> datetime:
    try:
        return until - _DEFAULT
    except OverflowError:
        return until
