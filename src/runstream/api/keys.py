"""The routes of a tenant's API keys, for who administers it. Keys of operators are made by command alone."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from runstream.api.asking import Administering
from runstream.api.auditing import acting
from runstream.api.documents import EVERYWHERE, refusals
from runstream.api.schemas.fields import Absent, KeyCursor
from runstream.api.schemas.keys import KeyObject, KeyPage, KeyRequest, NewKeyObject, RotationRequest
from runstream.api.services import Given
from runstream.domain.errors import InvalidRequest, NotFound
from runstream.domain.ids import is_id

router = APIRouter(prefix="/v1/keys", tags=["keys"], responses=refusals(*EVERYWHERE))

_PRIVATE = {"Cache-Control": "no-store"}


@router.post("", status_code=201, response_model=NewKeyObject, responses=refusals(409, 413, 415))
async def create_key(body: KeyRequest, asking: Administering, services: Given, request: Request) -> Response:
    """Make a key of your tenant, which is shown this once. It can do no more than the one that asks."""
    made = await services.keys.create(
        kind=body.kind,
        tenant=asking.owner.tenant,
        user=body.user,
        scopes=body.scopes,
        expires_at=body.expires_at,
        granted=asking.scopes,
        by=acting(asking, request),
    )
    return _json(NewKeyObject.made(made), 201)


@router.get("", response_model=KeyPage)
async def list_keys(
    asking: Administering,
    services: Given,
    cursor: Annotated[KeyCursor | Absent, Query(description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """The tenant's keys, without the keys themselves, newest first."""
    if cursor is not None and not is_id("key", cursor):
        raise InvalidRequest("A page's cursor is the 'next' of the page before it.", param="cursor")
    records = await services.keys.page(asking.owner.tenant, before=cursor, limit=limit + 1)
    shown = [KeyObject.of(record) for record in records[:limit]]
    return _json(KeyPage(data=shown, next=shown[-1].id if len(records) > limit else None))


@router.post("/{key_id}/rotate", status_code=201, response_model=NewKeyObject, responses=refusals(404, 409, 413, 415))
async def rotate_key(
    key_id: str, body: RotationRequest, asking: Administering, services: Given, request: Request
) -> Response:
    """Make another key in the place of this one, which expires after the overlap."""
    made = await services.keys.rotate(
        asking.owner.tenant,
        _known(key_id),
        overlap=timedelta(seconds=body.overlap),
        expires_at=body.expires_at,
        granted=asking.scopes,
        by=acting(asking, request),
    )
    return _json(NewKeyObject.made(made), 201)


@router.delete("/{key_id}", status_code=204, responses=refusals(404, 413, 415))
async def revoke_key(key_id: str, asking: Administering, services: Given, request: Request) -> Response:
    """Make a key invalid, within a second in every process."""
    await services.keys.revoke(asking.owner.tenant, _known(key_id), by=acting(asking, request))
    return Response(status_code=204)


def _known(key_id: str) -> str:
    if not is_id("key", key_id):
        raise NotFound("There is no such key.")
    return key_id


def _json(answer: BaseModel, status: int = 200) -> Response:
    return Response(answer.model_dump_json(), status, _PRIVATE, media_type="application/json")
