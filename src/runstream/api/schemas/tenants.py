"""Tenants: what is asked for, and what is shown of them."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runstream.api.schemas.fields import Absent
from runstream.api.schemas.plans import AllowanceObject
from runstream.domain.terms import Source, Standing, TenantTerms
from runstream.gateway.limits import Holding
from runstream.storage.terms import TenantRecord

TenantId = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", examples=["acme"])]


class TenantRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: TenantId


class TenantChange(BaseModel):
    """What is not there stays as it is."""

    model_config = ConfigDict(extra="forbid")

    status: Literal[Standing.ACTIVE, Standing.SUSPENDED] | Absent = None
    cancel_running: Annotated[
        bool, Field(description="With `suspended`: cancel what runs; it would go on to its end otherwise.")
    ] = False
    plan: Annotated[str | None, Field(description="A plan's name; null for none.")] = None
    overrides: Annotated[
        AllowanceObject | None, Field(description="What holds in the place of the plan; null for nothing.")
    ] = None

    @property
    def allowed(self) -> dict[str, Any]:
        """Its plan and its overrides, where they are said."""
        said: dict[str, Any] = {}
        if "plan" in self.model_fields_set:
            said["plan"] = self.plan
        if "overrides" in self.model_fields_set:
            said["overrides"] = (self.overrides and self.overrides.said()) or None
        return said

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.status is None and not self.allowed:
            raise ValueError("Say what is to change: status, plan or overrides")
        return self


class TenantObject(BaseModel):
    """A tenant. With `cancel_running`, what still ran when it was suspended is cancelled."""

    id: str
    object: Literal["tenant"] = "tenant"
    status: Standing
    cancel_running: bool
    created_at: datetime
    suspended_at: datetime | None
    removal_requested_at: datetime | None
    plan: str | None
    overrides: dict[str, Any] | None

    @classmethod
    def of(cls, record: TenantRecord) -> Self:
        return cls(
            id=record.id,
            status=record.standing,
            cancel_running=record.cancel_running,
            created_at=record.created_at,
            suspended_at=record.suspended_at,
            removal_requested_at=record.removal_requested_at,
            plan=record.plan,
            overrides=None if record.overrides is None else dict(record.overrides),
        )


class EffectiveLimit(BaseModel):
    """`limit` is a number, of cost in US dollars, as text; null where it is switched off."""

    name: Annotated[str, Field(examples=["tenant.tokens_per_day"])]
    limit: int | str | None
    source: Source


class Effective(BaseModel):
    """`value` is null where nothing bounds it."""

    value: list[str] | int | None
    source: Source


class EffectiveTerms(BaseModel):
    """What holds in the process that answers, and where it is said."""

    limits: list[EffectiveLimit]
    features: Effective
    models: Effective
    retention_days: Effective


class TenantTermsObject(TenantObject):
    """A tenant, and what holds for it."""

    effective: EffectiveTerms

    @classmethod
    def holding(cls, record: TenantRecord, limits: Sequence[Holding], terms: TenantTerms) -> Self:
        shown = [
            EffectiveLimit(name=name, limit=str(most) if isinstance(most, Decimal) else most, source=source)
            for name, most, source in limits
        ]
        others = {name: terms.holding(name) for name in ("features", "models", "retention_days")}
        effective = EffectiveTerms(
            limits=shown, **{name: Effective(value=value, source=source) for name, (value, source) in others.items()}
        )
        return cls(**TenantObject.of(record).model_dump(), effective=effective)


class TenantPage(BaseModel):
    """By name; `next` is the cursor of the page after this one."""

    data: list[TenantObject]
    next: str | None
