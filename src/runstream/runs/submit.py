"""Accept a run: the row first, the job second."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import orjson
import structlog
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from redis.exceptions import RedisError

from runstream.crash_points import Point, reached
from runstream.domain.errors import (
    IdempotencyConflict,
    InvalidField,
    LimitReached,
    NotAllowed,
    QueueFull,
    TenantSuspended,
    TooManyQueued,
    Unavailable,
)
from runstream.domain.ids import new_id
from runstream.domain.limits import UNLIMITED, Hold, Left, Party
from runstream.domain.run import Caching, Complexity, Priority, Request, Run
from runstream.domain.terms import Terms
from runstream.features.base import Feature
from runstream.gateway.admission import Admission, Wanted
from runstream.gateway.guards.limits import InputLimits
from runstream.gateway.routes import RouteQuery, Routes
from runstream.metrics import ACCEPTED, NOT_ENQUEUED
from runstream.queue.enqueue import JobQueue
from runstream.runs.backlog import Backlog
from runstream.storage.runs import Inserted, RunStore

_TRIES = 20
"""Reservations of one run that may turn out to be of an epoch that is over. Each time, all was read anew."""

_LATER = {"complexity": None, "priority": Priority.DEFAULT, "cache": None}
"""What came to requests later, and stands there where they do not say it."""

log = structlog.get_logger(__name__)


class Submitted(NamedTuple):
    """`left` is what is left of all limits that hold for who asked, where the run is new."""

    run: Run
    new: bool
    left: Left


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came, its shape checked but not its meaning."""

    feature: str
    model: str | None
    input: Mapping[str, Any]
    metadata: Mapping[str, Any]
    subject_type: str | None = None
    subject_id: str | None = None
    complexity: Complexity | None = None
    priority: Priority = Priority.DEFAULT
    cache: Caching | None = None


class Submit:
    def __init__(
        self,
        *,
        store: RunStore,
        terms: Callable[[], Terms],
        backlog: Backlog,
        admission: Admission,
        jobs: JobQueue,
        features: Mapping[str, Feature],
        routes: Routes,
        input_limits: InputLimits,
        default_model: str | None,
        queue: str,
        max_attempts: int,
    ) -> None:
        self._store = store
        self._terms = terms
        self._backlog = backlog
        self._admission = admission
        self._jobs = jobs
        self._features = features
        self._routes = routes
        self._input_limits = input_limits
        self._default_model = default_model
        self._queue = queue
        self._max_attempts = max_attempts

    async def __call__(self, *, tenant: str, user: str, asked: Asked, idempotency_key: str | None) -> Submitted:
        """Make the run durable, then enqueue it.

        The same idempotency key with the same request answers the run made then (P4), whatever limits say. Raises
        TenantSuspended, NotAllowed, InvalidField, IdempotencyConflict, LimitReached, TooManyQueued, QueueFull: nothing
        was accepted. Raises Unavailable: what was accepted, if anything, is found by the idempotency key. A job that
        Redis does not take is no failure: the sweep enqueues it (P1).
        """
        run_id = new_id("run")
        request = self._request(run_id, tenant, asked)
        body_hash = _hash(asked) if idempotency_key is not None else None
        left = UNLIMITED
        try:
            (run, same_body), left = await self._make(
                run_id, Party(tenant, user, request.feature), request, idempotency_key, body_hash
            )
        except (TenantSuspended, NotAllowed, LimitReached, TooManyQueued, QueueFull):
            earlier = idempotency_key and await self._store.earlier(tenant, user, idempotency_key, body_hash)
            if not earlier:
                raise
            run, same_body = earlier
        if same_body is False:
            raise IdempotencyConflict(param="Idempotency-Key")
        if same_body is None:
            ACCEPTED.labels(request.feature).inc()
            log.info("run_accepted", run_id=run.id, feature=request.feature, model=request.model)
            reached(Point.SUBMIT_COMMITTED)
            await self._enqueue(run)
            reached(Point.SUBMIT_ENQUEUED)
        return Submitted(run, same_body is None, left if same_body is None else UNLIMITED)

    async def _make(
        self, run_id: str, party: Party, request: Request, idempotency_key: str | None, body_hash: bytes | None
    ) -> tuple[Inserted, Left]:
        """Reserve, and write the row while that is good; what has become of it is kept or given back."""
        self._terms().admit(party, request.prompt_version, request.model)
        wanted = Wanted(run_id, party, request.model, request.input, complexity=request.complexity)
        for _ in range(_TRIES):
            hold = await self._admission.reserve(wanted)
            reached(Point.SUBMIT_RESERVED)
            try:
                async with self._admission.unreserved(hold, party.tenant), self._backlog.room(party.tenant):
                    inserted = await self._insert(wanted, request, idempotency_key, body_hash, hold)
            except (TooManyQueued, QueueFull):
                await self._admission.release(hold)
                raise
            if inserted is None:
                await self._admission.stale(hold)
                continue
            if inserted.same_body is not None:
                await self._admission.release(hold)
            return inserted, hold.left if hold else UNLIMITED
        raise Unavailable("The tenant's limits cannot be read now: try again shortly.", retry_after=1)

    async def _insert(
        self,
        wanted: Wanted,
        request: Request,
        idempotency_key: str | None,
        body_hash: bytes | None,
        hold: Hold | None,
    ) -> Inserted | None:
        return await self._store.insert(
            wanted.run_id,
            tenant=wanted.party.tenant,
            user=wanted.party.user,
            request=request,
            queue=self._queue,
            max_attempts=self._max_attempts,
            idempotency_key=idempotency_key,
            body_hash=body_hash,
            hold=hold,
        )

    async def _enqueue(self, run: Run) -> None:
        try:
            await self._jobs.enqueue(run.id, run.attempt, self._queue, tenant=run.tenant, priority=run.priority)
        except (RedisError, OSError, TimeoutError) as error:
            NOT_ENQUEUED.inc()
            log.warning("job_not_enqueued", run_id=run.id, error=type(error).__name__)

    def _request(self, run_id: str, tenant: str, asked: Asked) -> Request:
        feature = self._features.get(asked.feature)
        if feature is None:
            raise InvalidField(
                f"There is no such feature. Choose one of: {', '.join(self._features)}.", param="feature"
            )
        model = asked.model or feature.model or self._default_model
        if model is None:
            raise InvalidField("Name a model: neither the feature nor RUNSTREAM_DEFAULT_MODEL has one.", param="model")
        self._routes.configured(tenant, model)
        input = _validated(feature, asked.input)
        self._input_limits.check(feature.prompt(input))
        self._routes.targets(RouteQuery(run_id, tenant, model, input, asked.complexity))
        return Request(
            feature=feature.name,
            prompt_version=feature.prompt_version,
            model=model,
            input=input,
            metadata=asked.metadata,
            subject_type=asked.subject_type,
            subject_id=asked.subject_id,
            complexity=asked.complexity,
            priority=asked.priority,
            cache=asked.cache or feature.cache,
        )


def _validated(feature: Feature, value: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return feature.input.model_validate(value).model_dump(mode="json", by_alias=True, exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(("input", *_path(first, value)))
        raise InvalidField.at(path, first["msg"]) from None


def _path(fault: ErrorDetails, value: Any) -> Iterator[str]:
    """The way to a fault in the value as it was given: places that only name one of a union's choices are left out."""
    places = fault["loc"]
    for place in places[:-1]:
        within = place in value if isinstance(value, Mapping) else isinstance(place, int)
        if within:
            value = value[place]
            yield str(place)
    if isinstance(value, Mapping | list) and (fault["type"] == "missing" or fault["input"] is not value):
        yield from map(str, places[-1:])


def _hash(asked: Asked) -> bytes:
    """What was added to requests later is not in it where they do not say it: their keys stay good."""
    said = ((name, getattr(asked, name)) for name in Asked.__slots__)
    parts = (
        b'"%s":%s' % (name.encode(), orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
        for name, value in said
        if name not in _LATER or value != _LATER[name]
    )
    return sha256(b"{%s}" % b",".join(parts)).digest()
