"""Tokens for one run, for whoever may read it to hand to a tab or a phone."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from runstream.access.run_tokens import Access
from runstream.api.asking import Listing
from runstream.api.auditing import note_operator
from runstream.api.documents import EVERYWHERE, refusals
from runstream.api.schemas.run_tokens import RunTokenObject, RunTokenRequest
from runstream.api.services import Given
from runstream.domain.audit import Action
from runstream.domain.errors import NotFound
from runstream.domain.ids import is_id
from runstream.domain.principal import Owner, Scope

router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=refusals(*EVERYWHERE))


@router.post("/{run_id}/token", status_code=201, response_model=RunTokenObject, responses=refusals(400, 404, 413, 415))
async def create_run_token(
    run_id: str, body: RunTokenRequest, asking: Listing, services: Given, request: Request
) -> Response:
    """Make a token with which this run can be read, and cancelled where that is asked for; no token makes another."""
    if body.access is Access.READ_AND_CANCEL:
        asking.check(Scope.RUNS_WRITE)
    run = await services.store.get(asking.owner, run_id) if is_id("run", run_id) else None
    if run is None:
        raise NotFound("There is no such run.")
    await note_operator(services, asking, request, Action.RUN_TOKEN_CREATED, run.id, access=body.access)
    minted = await services.run_tokens.mint(asking, run.id, Owner(run.tenant, run.user), body.access, body.expires_in)
    answer = RunTokenObject(
        run_id=run.id,
        access=body.access,
        token=minted.token,
        expires_at=datetime.fromtimestamp(minted.expires_at, UTC),
    )
    return Response(answer.model_dump_json(), 201, media_type="application/json")
