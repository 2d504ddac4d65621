"""The routes of runs: parse, call one use case, answer."""

import re
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel

from runstream.api.asking import Cancelling, Listing, Reading, Writing
from runstream.api.auditing import acting_on_another_s, note, note_operator
from runstream.api.documents import ALL_SEEN, CHAT_BODY, EVENT_STREAM, EVERYWHERE, NOT_RETRYABLE, STREAMED, refusals
from runstream.api.events import MEDIA_TYPE, EventStream, replay
from runstream.api.rates import rate_headers
from runstream.api.schemas.fields import Absent, EventId, IdempotencyKey, Moment, Name, PageCursor
from runstream.api.schemas.runs import AttemptList, AttemptObject, RunObject, RunPage, RunRequest
from runstream.api.services import Given, Services
from runstream.domain.audit import Action
from runstream.domain.cursor import START, Cursor
from runstream.domain.errors import ContentRemoved, InvalidCursor, InvalidRequest, NotFound
from runstream.domain.ids import is_id
from runstream.domain.principal import Principal
from runstream.domain.run import Priority, Status
from runstream.runs.submit import Asked
from runstream.runs.watch import MAX_WAIT
from runstream.storage.lists import Filters

router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=refusals(*EVERYWHERE))

_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*([0-9]{1,6})(?![0-9])", re.IGNORECASE)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

Wait = Annotated[float, Query(ge=0, le=MAX_WAIT, description="Seconds to wait for the run's end.")]


@router.post(
    "",
    status_code=202,
    response_model=RunObject,
    responses={200: STREAMED, 204: ALL_SEEN, **refusals(400, 404, 409, 410, 413, 415, 429)},
    openapi_extra=CHAT_BODY,
)
async def create_run(
    body: RunRequest,
    asking: Writing,
    services: Given,
    request: Request,
    idempotency_key: Annotated[
        IdempotencyKey | Absent,
        Header(alias="Idempotency-Key", description="One key, one run: 1 to 255 visible ASCII characters."),
    ] = None,
    prefer: Annotated[
        str | Absent,
        Header(alias="Prefer", description="`wait=N`: answer the ended run if it ends within N seconds."),
    ] = None,
    accept: Annotated[str | Absent, Header(include_in_schema=False)] = None,
    last_event_id: Annotated[
        EventId | Absent,
        Header(
            alias="Last-Event-ID",
            description="With text/event-stream: go on after this event, where the run was made before.",
        ),
    ] = None,
) -> Response:
    """Accept a generation. Answered with 202, it will be run to one end, whatever dies."""
    if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
        raise InvalidRequest("An Idempotency-Key is 1 to 255 visible ASCII characters.", param="Idempotency-Key")
    wait = _preferred_wait(prefer)
    after = _cursor(last_event_id)
    tenant, user = asking.maker
    await note_operator(services, asking, request, Action.RUN_SUBMITTED, None, user=user)
    run, new, left = await services.submit(
        tenant=tenant, user=user, asked=_asked(body), idempotency_key=idempotency_key
    )
    headers = {"Location": f"/v1/runs/{run.id}", **rate_headers(left)}
    if not new:
        headers["Idempotency-Replayed"] = "true"
        await note_operator(services, asking, request, Action.RUN_READ, run.id)
    if _wants_events(accept):
        if new:  # which has no events before: a cursor is of another run, and a refusal would lose this one
            return EventStream(services.watch.reader(asking.owner, run.id, START), headers)
        return await _stream(services, asking, run.id, after, headers)
    if wait:
        run = await services.watch.until_ended(asking.owner, run.id, wait)
        headers["Preference-Applied"] = f"wait={wait}"
    status = 200 if wait and run.status.ended else 202
    return _json(RunObject.of(run), status, headers)


@router.get("", response_model=RunPage, responses=refusals(400))
async def list_runs(
    asking: Listing,
    services: Given,
    request: Request,
    status: Status | None = None,
    feature: Annotated[Name | None, Query()] = None,
    user: Annotated[Name | None, Query()] = None,
    subject_type: Annotated[Name | None, Query()] = None,
    subject_id: Annotated[Name | None, Query()] = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
    cursor: Annotated[PageCursor | Absent, Query(description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """The runs that you may see, newest first: a user its own, a server its tenant's."""
    if cursor is not None and not is_id("run", cursor):
        raise InvalidRequest("A page's cursor is the 'next' of the page before it.", param="cursor")
    filters = Filters(status, feature, user, subject_type, subject_id, created_after, created_before)
    runs = await services.lists.page(asking.owner, filters, before=cursor, limit=limit + 1)
    page = [RunObject.of(run) for run in runs[:limit]]
    await note_operator(services, asking, request, Action.RUN_LISTED, None, user=user)
    return _json(RunPage(data=page, next=page[-1].id if len(runs) > limit else None))


@router.get("/{run_id}", response_model=RunObject, responses=refusals(404))
async def get_run(run_id: str, asking: Reading, services: Given, request: Request, wait: Wait = 0) -> Response:
    """One run; with `wait`, as soon as it has ended, or as it is when the time is up."""
    run = await services.watch.until_ended(asking.owner, known_run(run_id), wait)
    await note_operator(services, asking, request, Action.RUN_READ, run.id)
    return _json(RunObject.of(run))


@router.get(
    "/{run_id}/events",
    response_class=Response,
    responses={
        200: EVENT_STREAM,
        204: ALL_SEEN,
        **refusals(400, 404, 410),
    },
)
async def follow_run(
    run_id: str,
    asking: Reading,
    services: Given,
    request: Request,
    after: Annotated[EventId | Absent, Query(description="As Last-Event-ID, which goes before it.")] = None,
    last_event_id: Annotated[
        EventId | Absent, Header(alias="Last-Event-ID", description="The id of the last event seen.")
    ] = None,
) -> Response:
    """The run's events from a cursor on, each once, until its end.

    A response that ends without a terminal event is to be asked for again with the last id seen.
    """
    response = await _stream(services, asking, known_run(run_id), _cursor(last_event_id or after), {})
    await note_operator(services, asking, request, Action.RUN_EVENTS_READ, run_id)
    return response


@router.delete(
    "/{run_id}",
    status_code=204,
    responses={202: {"description": "It is being stopped, and goes as soon as that is so."}, **refusals(404, 413, 415)},
)
async def delete_run(run_id: str, asking: Writing, services: Given, request: Request) -> Response:
    """Delete the run and all that it holds, but for what it cost. One that has not ended is stopped first.

    Asked is done, whatever dies; asking again is harmless for a day, and afterwards 404.
    """
    if acting_on_another_s(asking, request) and await services.store.get(asking.owner, known_run(run_id)):
        await note(services, asking, request, Action.RUN_DELETED, run_id)
    return Response(status_code=204 if await services.delete(asking.owner, known_run(run_id)) else 202)


@router.post("/{run_id}/cancel", response_model=RunObject, responses=refusals(400, 404, 413, 415))
async def cancel_run(run_id: str, asking: Cancelling, services: Given, request: Request) -> Response:
    """Stop the run, and answer it: ended, in all but the rarest cases. Calling it again is harmless."""
    run = await services.cancel(asking.owner, known_run(run_id), by=acting_on_another_s(asking, request))
    await note_operator(services, asking, request, Action.RUN_READ, run.id)
    return _json(RunObject.of(run))


@router.post(
    "/{run_id}/retry",
    status_code=202,
    response_model=RunObject,
    responses={409: NOT_RETRYABLE, **refusals(400, 404, 413, 415, 429)},
)
async def retry_run(run_id: str, asking: Writing, services: Given, request: Request) -> Response:
    """Have a failed or cancelled run tried again, as a new attempt. What it said so far is void."""
    run = await services.retry(asking.owner, known_run(run_id), by=acting_on_another_s(asking, request))
    return _json(RunObject.of(run), 202, {"Location": f"/v1/runs/{run.id}"})


@router.get("/{run_id}/attempts", response_model=AttemptList, responses=refusals(404))
async def list_attempts(run_id: str, asking: Reading, services: Given, request: Request) -> Response:
    """The run's attempts, the first one first: what each came to, and why."""
    run = await services.store.get(asking.owner, known_run(run_id))
    if run is None:
        raise NotFound("There is no such run.")
    attempts = await services.store.attempts(run.tenant, run.id)
    await note_operator(services, asking, request, Action.RUN_ATTEMPTS_READ, run.id)
    return _json(AttemptList(data=[AttemptObject.of(attempt) for attempt in attempts]))


async def _stream(
    services: Services, asking: Principal, run_id: str, after: Cursor, headers: dict[str, str]
) -> Response:
    owner = asking.owner
    standing = await services.store.standing(owner, run_id)
    if standing is None:
        raise NotFound("There is no such run.")
    if standing.removed is not None:
        raise ContentRemoved(
            f"The run's transcript was removed on {standing.removed:%Y-%m-%d}, as it is not kept longer."
        )
    if standing.transcript is not None:
        end = Cursor(standing.attempt, standing.transcript.end)
        if after > end:
            raise InvalidCursor("This cursor lies beyond the run's end: is it of another run?", param="Last-Event-ID")
        events = standing.transcript.after(after)
        return replay(events, headers) if events else Response(status_code=204, headers=headers)
    if after.attempt > standing.attempt:
        raise InvalidCursor("This cursor is of an attempt that has not begun.", param="Last-Event-ID")
    if standing.retried_attempt is not None:
        after = max(after, Cursor(standing.retried_attempt + 1, 0))  # what the log has of older attempts is void
    return EventStream(services.watch.reader(owner, run_id, after), headers)


def known_run(run_id: str) -> str:
    if not is_id("run", run_id):
        raise NotFound("There is no such run.")
    return run_id


def _cursor(text: str | None) -> Cursor:
    return Cursor.parse(text) if text else START


def _preferred_wait(prefer: str | None) -> int:
    match = _WAIT.search(prefer or "")
    return min(int(match[1]), MAX_WAIT) if match else 0


def _wants_events(accept: str | None) -> bool:
    """Whether events are named, before JSON if both are."""
    types = [part.partition(";")[0].strip().lower() for part in (accept or "").split(",")]
    return next((kind == MEDIA_TYPE for kind in types if kind in {MEDIA_TYPE, "application/json"}), False)


def _asked(body: RunRequest) -> Asked:
    return Asked(
        feature=body.feature,
        model=body.model,
        input=body.input,
        metadata=body.metadata,
        subject_type=body.subject.type if body.subject else None,
        subject_id=body.subject.id if body.subject else None,
        complexity=body.complexity,
        priority=Priority[body.priority.upper()],
        cache=body.cache,
    )


def _json(answer: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(answer.model_dump_json(), status, headers, media_type="application/json")
