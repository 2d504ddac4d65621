"""Flags: what is asked for, and what is shown of them."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from runstream.api.schemas.fields import Name
from runstream.api.schemas.tenants import TenantId
from runstream.domain.flags import Decision, Flag, Guarded, Reason
from runstream.storage.documents import Document

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class RuleObject(BaseModel):
    """What is switched, and for which share of a tenant's users; for no one where it is not `on`."""

    model_config = ConfigDict(extra="forbid")

    of: Annotated[
        dict[Guarded, Name],
        Field(
            min_length=1,
            max_length=1,
            description="A name or a pattern, in which `*` fits any text; a prompt's is such as `chat/2`.",
        ),
    ]
    on: bool = True
    share: Annotated[Share, Field(description="Of the users of tenants that are not named.")] = 1.0
    tenants: Annotated[dict[TenantId, Share], Field(max_length=1000, description="Of the users of these.")] = {}

    def said(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class DecisionObject(BaseModel):
    """On, where the user's `position` is below the `share`, and `reason` is not `off`."""

    on: bool
    reason: Reason
    share: float
    position: float


class FlagObject(BaseModel):
    """`decision` is for the tenant and the user that the request names."""

    name: str
    object: Literal["flag"] = "flag"
    rule: RuleObject
    created_at: datetime
    changed_at: datetime
    decision: DecisionObject | None

    @classmethod
    def of(cls, flag: Document, whom: tuple[str, str] | None = None) -> Self:
        decision: Decision | None = Flag.of(flag.name, flag.said).decide(*whom) if whom else None
        return cls(
            name=flag.name,
            rule=RuleObject.model_validate(flag.said),
            created_at=flag.created_at,
            changed_at=flag.changed_at,
            decision=decision and DecisionObject(**decision._asdict()),
        )


class FlagList(BaseModel):
    """By name."""

    data: list[FlagObject]
