"""What was spent, by group."""

from datetime import date, datetime
from typing import Annotated

from pydantic import BaseModel, Field

from runstream.api.schemas.fields import Absent
from runstream.domain.usage import dollars
from runstream.storage.spend import Spend


class UsageSum(BaseModel):
    """What the calls of one group came to; the group's own fields are those that were asked for.

    `cost` is in US dollars, of all calls but the `unpriced_calls`, whose model has no known price. Tokens of
    `estimated_calls` are not the provider's count: it never gave one. `refused_calls` bought nothing: their provider
    refused, or failed before its first token.
    `cached_calls` were not made, as their answer was there already, and would have cost the `saved_cost`, as far as
    their price is known.
    """

    tenant: str | Absent = None
    user: str | Absent = None
    feature: str | Absent = None
    model: str | Absent = None
    provider: str | Absent = None
    provider_model: str | Absent = None
    day: date | Absent = None
    calls: int
    refused_calls: int
    estimated_calls: int
    unpriced_calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: str
    cached_calls: int
    saved_cost: str

    @classmethod
    def of(cls, spend: Spend) -> "UsageSum":
        return cls.model_validate(
            {
                **spend.group,
                "calls": spend.calls,
                "refused_calls": spend.refused,
                "estimated_calls": spend.estimated,
                "unpriced_calls": spend.unpriced,
                "input_tokens": spend.input_tokens,
                "output_tokens": spend.output_tokens,
                "cached_tokens": spend.cached_tokens,
                "cost": dollars(spend.cost),
                "cached_calls": spend.cached,
                "saved_cost": dollars(spend.saved),
            }
        )


class UsagePage(BaseModel):
    """One entry for each group, in the order of `group_by`; a single one where nothing is asked for."""

    since: Annotated[datetime, Field(serialization_alias="from")]
    until: Annotated[datetime, Field(serialization_alias="to")]
    data: list[UsageSum]
