"""What limits are made of, wherever they are said: in configuration, in a plan, of a tenant."""

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MOST = 10**15
"""Redis counts in floating point, exactly up to 2**53."""

Bound = Annotated[int, Field(ge=0, le=MOST, strict=True)]
Dollars = Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=10)]


class LimitBounds(BaseModel):
    """What is null, or not there, is not limited; cost is in US dollars."""

    model_config = ConfigDict(extra="forbid")

    requests_per_minute: Bound | None = None
    concurrent_runs: Bound | None = None
    tokens_per_minute: Bound | None = None
    tokens_per_day: Bound | None = None
    tokens_per_month: Bound | None = None
    cost_per_minute: Dollars | None = None
    cost_per_day: Dollars | None = None
    cost_per_month: Dollars | None = None
