"""The routes of plans, for operators."""

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from runstream.api.asking import Operating
from runstream.api.auditing import acting
from runstream.api.documents import EVERYWHERE, refusals
from runstream.api.schemas.plans import AllowanceObject, PlanList, PlanObject
from runstream.api.services import Given

router = APIRouter(prefix="/v1/plans", tags=["tenants"], responses=refusals(*EVERYWHERE))


@router.get("", response_model=PlanList)
async def list_plans(asking: Operating, services: Given) -> Response:
    """All plans."""
    return _json(PlanList(data=[PlanObject.of(plan) for plan in await services.plans.list()]))


@router.get("/{name}", response_model=PlanObject, responses=refusals(404))
async def get_plan(name: str, asking: Operating, services: Given) -> Response:
    """One plan."""
    return _json(PlanObject.of(await services.plans.get(name)))


@router.put("/{name}", response_model=PlanObject, responses=refusals(413, 415))
async def put_plan(name: str, body: AllowanceObject, asking: Operating, services: Given, request: Request) -> Response:
    """Make a plan, or change it: this takes the place of all that it said, within a second in every process."""
    return _json(PlanObject.of(await services.plans.put(name, body.said(), by=acting(asking, request))))


@router.delete("/{name}", status_code=204, responses=refusals(404, 409, 413, 415))
async def remove_plan(name: str, asking: Operating, services: Given, request: Request) -> Response:
    """Remove a plan that no tenant has."""
    await services.plans.remove(name, by=acting(asking, request))
    return Response(status_code=204)


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")
