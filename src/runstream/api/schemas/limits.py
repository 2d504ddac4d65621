"""What is limited, and how much of it is left."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from runstream.domain.limits import Measure, Scope, Use, in_dollars
from runstream.domain.usage import dollars


class LimitObject(BaseModel):
    """A limit, and how much of it is used; amounts are numbers, those of cost are US dollars, as text.

    `used` was spent in the window, or asked for; `reserved` is for runs that have not ended. A run's reservation
    gives way to what it really took.
    """

    name: Annotated[str, Field(examples=["user.tokens_per_day"])]
    feature: str | None
    limit: int | str
    used: int | str
    reserved: int | str
    remaining: int | str
    resets_at: datetime | None

    @classmethod
    def of(cls, use: Use) -> "LimitObject":
        priced = use.limit.measure is Measure.COST
        amounts = {
            "limit": use.limit.most,
            "used": use.spent,
            "reserved": use.reserved,
            "remaining": use.remaining,
        }
        return cls.model_validate(
            {
                "name": use.limit.name,
                "feature": use.whose if use.limit.scope is Scope.FEATURE else None,
                **{name: dollars(in_dollars(units)) if priced else units for name, units in amounts.items()},
                "resets_at": use.resets_at,
            }
        )


class LimitList(BaseModel):
    """All that hold for who asks; `at` is the time by which their windows turn."""

    at: datetime
    data: list[LimitObject]
