"""The route by which a tenant's administrator takes all of it away."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from runstream.api.asking import Administering
from runstream.api.auditing import note
from runstream.api.documents import EVERYWHERE, refusals
from runstream.api.schemas.fields import Name
from runstream.api.services import Given
from runstream.domain.audit import Action

router = APIRouter(prefix="/v1/export", tags=["export"], responses=refusals(*EVERYWHERE))

_NDJSON = "application/x-ndjson"


@router.get(
    "",
    response_class=Response,
    responses={
        200: {"description": "A JSON object a line; the last one is an `export_end`.", "content": {_NDJSON: {}}}
    },
)
async def export_tenant(
    asking: Administering,
    services: Given,
    request: Request,
    user: Annotated[Name | None, Query(description="Only what is this user's.")] = None,
) -> Response:
    """All that the tenant has, as JSON lines: runs with what was asked and answered, ledger, webhooks and keys."""
    await note(services, asking, request, Action.TENANT_EXPORTED, asking.owner.tenant)
    lines = await services.export.begin(asking.owner.tenant, user)
    return StreamingResponse(lines, media_type=_NDJSON, headers={"Cache-Control": "no-store"})
