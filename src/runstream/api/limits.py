"""What may be asked for and spent, and how much of that is used."""

from fastapi import APIRouter, Response

from runstream.api.asking import Spending
from runstream.api.documents import EVERYWHERE, refusals
from runstream.api.schemas.limits import LimitList, LimitObject
from runstream.api.services import Given
from runstream.features.registry import FEATURES

router = APIRouter(prefix="/v1/limits", tags=["usage"], responses=refusals(*EVERYWHERE))


@router.get("", response_model=LimitList)
async def get_limits(asking: Spending, services: Given) -> Response:
    """Each limit that holds for who asks: those of its user, if it is or names one, its tenant's and its features'."""
    at, uses = await services.admission.uses(asking.owner.tenant, asking.spends_as, list(FEATURES))
    limits = LimitList(at=at, data=[LimitObject.of(use) for use in uses])
    return Response(limits.model_dump_json(), media_type="application/json", headers={"Cache-Control": "no-store"})
