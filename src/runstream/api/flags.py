"""The routes of flags, for operators."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from runstream.api.asking import Operating
from runstream.api.auditing import acting
from runstream.api.documents import EVERYWHERE, refusals
from runstream.api.schemas.fields import Absent, Name
from runstream.api.schemas.flags import FlagList, FlagObject, RuleObject
from runstream.api.services import Given
from runstream.domain.errors import InvalidField

router = APIRouter(prefix="/v1/flags", tags=["tenants"], responses=refusals(*EVERYWHERE))


@router.get("", response_model=FlagList)
async def list_flags(asking: Operating, services: Given) -> Response:
    """All flags."""
    return _json(FlagList(data=[FlagObject.of(flag) for flag in await services.flags.list()]))


@router.get("/{name}", response_model=FlagObject, responses=refusals(404))
async def get_flag(
    name: str,
    asking: Operating,
    services: Given,
    tenant: Annotated[Name | Absent, Query(description="With `user`: whether it is on for that one, and why.")] = None,
    user: Annotated[Name | Absent, Query(description="A user of the tenant's.")] = None,
) -> Response:
    """One flag, and what it decides of a user."""
    if tenant is not None and user is not None:
        return _json(FlagObject.of(await services.flags.get(name), (tenant, user)))
    if tenant is not None or user is not None:
        raise InvalidField("Name a tenant and a user of it, or neither.", param="user" if tenant else "tenant")
    return _json(FlagObject.of(await services.flags.get(name)))


@router.put("/{name}", response_model=FlagObject, responses=refusals(413, 415))
async def put_flag(name: str, body: RuleObject, asking: Operating, services: Given, request: Request) -> Response:
    """Make a flag, or change it: this takes the place of all that it said, within a second in every process."""
    return _json(FlagObject.of(await services.flags.put(name, body.said(), by=acting(asking, request))))


@router.delete("/{name}", status_code=204, responses=refusals(404, 413, 415))
async def remove_flag(name: str, asking: Operating, services: Given, request: Request) -> Response:
    """Remove a flag: what it was of is on for everybody then."""
    await services.flags.remove(name, by=acting(asking, request))
    return Response(status_code=204)


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")
