"""Accept a run: the row first, the job second."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
import structlog
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from redis.exceptions import RedisError

from runstream.crash_points import Point, reached
from runstream.domain.errors import IdempotencyConflict, InvalidField, QueueFull, TooManyQueued
from runstream.domain.ids import new_id
from runstream.domain.run import Request, Run
from runstream.features.base import Feature
from runstream.gateway.routes import Routes
from runstream.metrics import ACCEPTED, NOT_ENQUEUED
from runstream.queue.enqueue import JobQueue
from runstream.runs.backlog import Backlog
from runstream.storage.runs import Inserted, RunStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came, its shape checked but not its meaning."""

    feature: str
    model: str | None
    input: Mapping[str, Any]
    metadata: Mapping[str, Any]
    subject_type: str | None = None
    subject_id: str | None = None


class Submit:
    def __init__(
        self,
        *,
        store: RunStore,
        backlog: Backlog,
        jobs: JobQueue,
        features: Mapping[str, Feature],
        routes: Routes,
        default_model: str | None,
        queue: str,
        max_attempts: int,
    ) -> None:
        self._store = store
        self._backlog = backlog
        self._jobs = jobs
        self._features = features
        self._routes = routes
        self._default_model = default_model
        self._queue = queue
        self._max_attempts = max_attempts

    async def __call__(self, *, tenant: str, user: str, asked: Asked, idempotency_key: str | None) -> tuple[Run, bool]:
        """Make the run durable, then enqueue it; answers it, and whether it is new.

        The same idempotency key with the same request answers the run made then (P4). Raises InvalidField,
        IdempotencyConflict, TooManyQueued, QueueFull: nothing was accepted. Raises Unavailable: what was accepted, if
        anything, is found by the idempotency key. A job that Redis does not take is no failure: the sweep enqueues
        it (P1).
        """
        request = self._request(asked)
        body_hash = _hash(asked) if idempotency_key is not None else None
        try:
            async with self._backlog.room(tenant):
                run, same_body = await self._insert(tenant, user, request, idempotency_key, body_hash)
        except (TooManyQueued, QueueFull):
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
        return run, same_body is None

    async def _insert(
        self, tenant: str, user: str, request: Request, idempotency_key: str | None, body_hash: bytes | None
    ) -> Inserted:
        return await self._store.insert(
            new_id("run"),
            tenant=tenant,
            user=user,
            request=request,
            queue=self._queue,
            max_attempts=self._max_attempts,
            idempotency_key=idempotency_key,
            body_hash=body_hash,
        )

    async def _enqueue(self, run: Run) -> None:
        try:
            await self._jobs.enqueue(run.id, run.attempt, self._queue)
        except (RedisError, OSError, TimeoutError) as error:
            NOT_ENQUEUED.inc()
            log.warning("job_not_enqueued", run_id=run.id, error=type(error).__name__)

    def _request(self, asked: Asked) -> Request:
        feature = self._features.get(asked.feature)
        if feature is None:
            raise InvalidField(
                f"There is no such feature. Choose one of: {', '.join(self._features)}.", param="feature"
            )
        model = asked.model or feature.model or self._default_model
        if model is None:
            raise InvalidField("Name a model: neither the feature nor RUNSTREAM_DEFAULT_MODEL has one.", param="model")
        self._routes.targets(model)
        return Request(
            feature=feature.name,
            prompt_version=feature.prompt_version,
            model=model,
            input=_validated(feature, asked.input),
            metadata=asked.metadata,
            subject_type=asked.subject_type,
            subject_id=asked.subject_id,
        )


def _validated(feature: Feature, value: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return feature.input.model_validate(value).model_dump(mode="json", by_alias=True, exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(("input", *_path(first, value)))
        raise InvalidField(f"{path}: {first['msg']}", param=path) from None


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
    return sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).digest()
