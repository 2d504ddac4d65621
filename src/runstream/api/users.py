"""The routes by which a tenant's administrator has one of its users erased."""

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from runstream.api.asking import Administering
from runstream.api.auditing import note
from runstream.api.documents import EVERYWHERE, refusals
from runstream.api.schemas.erasures import ErasureObject
from runstream.api.services import Given
from runstream.domain.audit import Action
from runstream.domain.errors import NotFound
from runstream.domain.ids import is_id
from runstream.domain.principal import user_name

router = APIRouter(prefix="/v1", tags=["users"], responses=refusals(*EVERYWHERE))


@router.delete("/users/{user:path}", status_code=202, response_model=ErasureObject, responses=refusals(404, 413, 415))
async def erase_user(user: str, asking: Administering, services: Given, request: Request) -> Response:
    """Erase all that the user has asked and was answered till now, and revoke the user's keys.

    It is done in the background, whatever dies. Asked again before it is done, it is the same erasure, as of then.
    """
    erasure = await services.erasures.ask(asking.owner.tenant, user_name(user))
    await note(services, asking, request, Action.USER_ERASED, erasure.id)
    return _json(ErasureObject.of(erasure), 202, {"Location": f"/v1/erasures/{erasure.id}"})


@router.get("/erasures/{erasure_id}", response_model=ErasureObject, responses=refusals(404))
async def get_erasure(erasure_id: str, asking: Administering, services: Given) -> Response:
    """How far the erasure of a user is."""
    tenant = asking.owner.tenant
    erasure = await services.erasures.get(tenant, erasure_id) if is_id("era", erasure_id) else None
    if erasure is None:
        raise NotFound("There is no such erasure.")
    return _json(ErasureObject.of(erasure))


def _json(answer: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(answer.model_dump_json(), status, headers, media_type="application/json")
