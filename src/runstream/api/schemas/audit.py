"""Entries of the audit log."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from runstream.domain.audit import OF_THE_SERVICE, ActorKind, Entry


class PrincipalObject(BaseModel):
    """`id` is that of the key or the token; for a `command`, the login at the terminal. `user` is whom it is for."""

    kind: ActorKind
    id: str
    user: str | None


class TargetObject(BaseModel):
    """What it was done to; `id` is null where that is more than one thing."""

    type: str
    id: str | None


class EntryObject(BaseModel):
    """Who did what. To a tenant's own keys, `address` and `user_agent` of those who run the service are null."""

    id: str
    object: Literal["audit_entry"] = "audit_entry"
    at: datetime
    tenant: str | None
    principal: PrincipalObject
    action: str
    target: TargetObject
    address: str | None
    user_agent: str | None
    request_id: str
    details: dict[str, Any]

    @classmethod
    def of(cls, entry: Entry, *, to_tenant: bool) -> "EntryObject":
        by = entry.by
        hidden = to_tenant and by.kind in OF_THE_SERVICE
        return cls(
            id=entry.id,
            at=entry.at,
            tenant=entry.tenant,
            principal=PrincipalObject(kind=by.kind, id=by.id, user=by.user),
            action=entry.action,
            target=TargetObject(type=entry.target_type, id=entry.target),
            address=None if hidden else by.address,
            user_agent=None if hidden else by.user_agent,
            request_id=by.request_id,
            details=dict(entry.details),
        )


class AuditPage(BaseModel):
    """The newest first; `next` is the `cursor` of the page after, null at the end."""

    data: list[EntryObject]
    next: str | None
