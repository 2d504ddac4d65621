"""What those who run the service ask it."""

import asyncio
from collections.abc import Awaitable

import structlog
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError

from runstream.api.schemas.operations import Readiness
from runstream.api.services import Given, Services
from runstream.domain.errors import Unavailable
from runstream.domain.run import Status
from runstream.metrics import QUEUE_DEPTH, RUNS

_DEADLINE = 3.0

router = APIRouter(tags=["operations"])

log = structlog.get_logger(__name__)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not ready; `checks` says what is missing."}},
)
async def readyz(services: Given) -> Response:
    """Whether requests can be served now, and if not, what is missing."""
    database, redis = await asyncio.gather(_told(_database(services)), _told(_redis(services)))
    checks = {"database": database, "redis": redis}
    ready = all(answer == "ok" for answer in checks.values())
    body = Readiness(status="ready" if ready else "not ready", checks=checks)
    return JSONResponse(body.model_dump(), status_code=200 if ready else 503)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(services: Given) -> Response:
    """For Prometheus. Figures that a part does not answer for now keep their last value."""
    try:
        async with asyncio.timeout(_DEADLINE):
            counts = await services.all_runs.counts()
            for status in (Status.QUEUED, Status.RUNNING):
                RUNS.labels(status).set(counts.get(status, 0))
            QUEUE_DEPTH.labels(services.queue).set(await services.jobs.depth(services.queue))
    except (Unavailable, RedisError, OSError, TimeoutError) as error:
        log.warning("metrics_incomplete", error=type(error).__name__)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _told(check: Awaitable[str]) -> str:
    try:
        async with asyncio.timeout(_DEADLINE):
            return await check
    except TimeoutError:
        return f"did not answer in {_DEADLINE:g} s"


async def _database(services: Services) -> str:
    try:
        missing = await services.missing_migration()
    except Unavailable:
        return "does not answer"
    return "ok" if missing is None else f"migration {missing} is missing: run 'runstream migrate'"


async def _redis(services: Services) -> str:
    try:
        await services.redis.ping()
    except (RedisError, OSError):
        return "does not answer"
    return "ok" if services.hub.connected else "subscriptions are not connected"
