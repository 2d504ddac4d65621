"""The audit log, for who administers a tenant, and for who runs the service."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from runstream.api.asking import Administering
from runstream.api.documents import EVERYWHERE, refusals
from runstream.api.schemas.audit import AuditPage, EntryObject
from runstream.api.schemas.fields import Absent, AuditCursor, Moment, Name
from runstream.api.services import Given
from runstream.domain.audit import Action
from runstream.domain.errors import InvalidField, InvalidRequest
from runstream.domain.ids import is_id
from runstream.domain.principal import Kind
from runstream.storage.audit import AuditFilters

router = APIRouter(prefix="/v1/audit", tags=["audit"], responses=refusals(*EVERYWHERE))


@router.get("", response_model=AuditPage)
async def list_audit(
    asking: Administering,
    services: Given,
    action: Action | None = None,
    target: Annotated[Name | None, Query(description="The id of what it was done to.")] = None,
    principal: Annotated[Name | None, Query(description="The id of the key or token that did it.")] = None,
    from_: Annotated[Moment | None, Query(alias="from")] = None,
    to: Annotated[Moment | None, Query(description="Before this time.")] = None,
    cursor: Annotated[AuditCursor | Absent, Query(description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Who did what, newest first: in your tenant; for an operator that names none, in all, and to the installation."""
    if cursor is not None and not is_id("aud", cursor):
        raise InvalidRequest("A page's cursor is the 'next' of the page before it.", param="cursor")
    if from_ and to and from_ > to:
        raise InvalidField("This time begins after its end: give a 'from' before 'to'.", param="from")
    operator = asking.kind is Kind.OPERATOR
    tenant = asking.tenant if operator else asking.owner.tenant
    filters = AuditFilters(tenant, action, target, principal, from_, to)
    entries = await services.audit.page(filters, before=cursor, limit=limit + 1)
    shown = [EntryObject.of(entry, to_tenant=not operator) for entry in entries[:limit]]
    page = AuditPage(data=shown, next=shown[-1].id if len(entries) > limit else None)
    return Response(page.model_dump_json(), media_type="application/json")
