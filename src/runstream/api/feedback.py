"""What became of answers, told run by run, and added up."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from runstream.api.asking import Listing, Spending, Writing
from runstream.api.auditing import acting, note_operator
from runstream.api.documents import EVERYWHERE, refusals
from runstream.api.grouping import MOST, check_few, dimensions, period
from runstream.api.runs import known_run
from runstream.api.schemas.feedback import FeedbackCount, FeedbackObject, FeedbackPage, FeedbackRequest
from runstream.api.schemas.fields import Moment
from runstream.api.services import Given
from runstream.domain import feedback
from runstream.domain.audit import Action
from runstream.domain.errors import InvalidField, NotFound
from runstream.domain.feedback import FeedbackEvent
from runstream.domain.principal import Kind
from runstream.storage.feedback import FeedbackDimension

router = APIRouter(prefix="/v1", tags=["feedback"], responses=refusals(*EVERYWHERE))


@router.post("/runs/{run_id}/feedback", response_model=FeedbackObject, responses=refusals(404, 413, 415))
async def give_feedback(
    run_id: str, body: FeedbackRequest, asking: Writing, services: Given, request: Request
) -> Response:
    """Tell what became of the run's answer. The run's result stays as it is; telling the same again changes nothing."""
    if (body.event is FeedbackEvent.EDITED) != (body.text is not None):
        raise InvalidField("'text' is there where the event is 'edited', and only there.", param="text")
    entry = None
    if asking.kind is Kind.OPERATOR:
        entry = acting(asking, request).entry(
            Action.RUN_FEEDBACK_GIVEN, tenant=asking.owner.tenant, target=run_id, event=body.event
        )
    given = feedback.Given(body.event, body.text, body.rating, body.comment)
    kept = await services.feedback.give(asking.owner, known_run(run_id), given, entry=entry)
    if kept is None:
        raise NotFound("There is no such run.")
    return Response(FeedbackObject.of(kept).model_dump_json(), media_type="application/json")


@router.get("/runs/{run_id}/feedback", response_model=FeedbackObject, responses=refusals(404))
async def get_feedback(run_id: str, asking: Listing, services: Given, request: Request) -> Response:
    """What was told of the run."""
    kept = await services.feedback.get(asking.owner, known_run(run_id))
    if kept is None:
        raise NotFound("There is no such run, or nothing was told of it.")
    await note_operator(services, asking, request, Action.RUN_FEEDBACK_READ, run_id)
    return Response(FeedbackObject.of(kept).model_dump_json(), media_type="application/json")


@router.get("/feedback", response_model=FeedbackPage)
async def count_feedback(
    asking: Spending,
    services: Given,
    group_by: Annotated[str, Query(description=f"Any of {', '.join(FeedbackDimension)}, with commas between.")] = "",
    from_: Annotated[
        Moment | None, Query(alias="from", description="30 days before `to` where it is left out.")
    ] = None,
    to: Annotated[Moment | None, Query(description="Now, where it is left out.")] = None,
) -> Response:
    """Feedback on the runs of which it began from `from` on and before `to`: a user's own, or all of a tenant's."""
    by = dimensions(FeedbackDimension, group_by)
    since, until = period(from_, to)
    sums = await services.feedback.sums(asking.owner, by, since=since, until=until, limit=MOST + 1)
    check_few(sums)
    shown = {*by, *FeedbackCount.model_fields} - (set(FeedbackDimension) - set(by))
    page = FeedbackPage(since=since, until=until, data=[FeedbackCount.of(each) for each in sums])
    return Response(
        page.model_dump_json(by_alias=True, include={"since": True, "until": True, "data": {"__all__": shown}}),
        media_type="application/json",
    )
