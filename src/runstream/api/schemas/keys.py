"""API keys: what is asked for, and what is shown of them."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from runstream.access.keys import MAX_OVERLAP, Made
from runstream.api.schemas.fields import Moment, Name
from runstream.domain.principal import Kind, Scope
from runstream.storage.keys import KeyRecord


class KeyRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal[Kind.SERVER, Kind.USER]
    user: Annotated[
        Name | None,
        Field(description="Whose key it is; of a server's, whose runs it makes where the request names nobody."),
    ] = None
    scopes: Annotated[
        list[Scope] | None,
        Field(min_length=1, description="Of those that you have; all but `admin` where they are left out."),
    ] = None
    expires_at: Annotated[Moment | None, Field(description="Never, where it is left out.")] = None


class RotationRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    overlap: Annotated[
        int, Field(ge=0, le=int(MAX_OVERLAP.total_seconds()), description="Seconds that the old key goes on for.")
    ] = 3600
    expires_at: Annotated[
        Moment | None,
        Field(description="After as long as the old key was made for, where it is left out."),
    ] = None


class KeyObject(BaseModel):
    """A key, of which `hint` are the first characters. `last_used_at` is exact to some minutes."""

    id: str
    object: Literal["key"] = "key"
    kind: Kind
    tenant: str | None
    user: str | None
    scopes: list[Scope]
    hint: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None

    @classmethod
    def of(cls, record: KeyRecord) -> Self:
        return cls.model_validate(_fields(record))


class NewKeyObject(KeyObject):
    """A key that was just made: `key` itself is shown this once."""

    key: str

    @classmethod
    def made(cls, made: Made) -> Self:
        return cls.model_validate({**_fields(made.record), "key": made.key})


class KeyPage(BaseModel):
    """The newest first; `next` is the cursor of the page after this one."""

    data: list[KeyObject]
    next: str | None


def _fields(record: KeyRecord) -> dict[str, object]:
    shown = ("id", "kind", "tenant", "user", "hint", "created_at", "expires_at", "last_used_at", "revoked_at")
    fields = {name: getattr(record, name) for name in (*shown, "replaced_by")}
    return {**fields, "scopes": sorted(record.scopes)}
