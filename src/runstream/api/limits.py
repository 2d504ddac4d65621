"""What may be asked for and spent, and how much of that is used."""

from fastapi import APIRouter, Response

from runstream.api.documents import refusals
from runstream.api.schemas.limits import LimitList, LimitObject
from runstream.api.services import Asking, Given
from runstream.features.registry import FEATURES

router = APIRouter(prefix="/v1/limits", tags=["usage"], responses=refusals(401, 503))


@router.get("", response_model=LimitList)
async def get_limits(asking: Asking, services: Given) -> Response:
    """Each limit that holds for the asking user: its own, its tenant's, and those of its tenant's features."""
    at, uses = await services.admission.uses(asking.tenant, asking.user, list(FEATURES))
    limits = LimitList(at=at, data=[LimitObject.of(use) for use in uses])
    return Response(limits.model_dump_json(), media_type="application/json", headers={"Cache-Control": "no-store"})
