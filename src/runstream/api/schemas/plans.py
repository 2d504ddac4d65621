"""Plans: what is asked for, and what is shown of them."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from runstream.api.schemas.fields import Name
from runstream.gateway.bounds import LimitBounds
from runstream.storage.documents import Document

Names = Annotated[list[Name], Field(max_length=100)]


class ScopedLimits(BaseModel):
    """By whose use is added up. A limit that is null is switched off; of one that is not there nothing is said."""

    model_config = ConfigDict(extra="forbid")

    user: LimitBounds | None = None
    tenant: LimitBounds | None = None
    feature: LimitBounds | None = None


class AllowanceObject(BaseModel):
    """What is allowed. Of what is null, or not there, nothing is said."""

    model_config = ConfigDict(extra="forbid")

    limits: ScopedLimits | None = None
    features: Annotated[Names | None, Field(description="Names and patterns, in which `*` fits any text.")] = None
    models: Annotated[Names | None, Field(description="Of what requests ask for, in the same way.")] = None
    retention_days: Annotated[int | None, Field(ge=1, le=36_500, strict=True)] = None

    def said(self) -> dict[str, Any]:
        """What was said and nothing else, as it is kept."""
        said = self.model_dump(mode="json", exclude_unset=True)
        limits = {scope: bounds for scope, bounds in (said.pop("limits", None) or {}).items() if bounds}
        kept = {name: value for name, value in said.items() if value is not None}
        return {**kept, "limits": limits} if limits else kept


class PlanObject(BaseModel):
    name: str
    object: Literal["plan"] = "plan"
    allowance: dict[str, Any]
    created_at: datetime
    changed_at: datetime

    @classmethod
    def of(cls, plan: Document) -> Self:
        times = {"created_at": plan.created_at, "changed_at": plan.changed_at}
        return cls(name=plan.name, allowance=dict(plan.said), **times)


class PlanList(BaseModel):
    """By name."""

    data: list[PlanObject]
