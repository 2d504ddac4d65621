"""The naive design: what a good team has after an afternoon with arq, Redis pub/sub and sse-starlette.

    python -m uvicorn tests.bench.naive:app
    python -m arq tests.bench.naive.WorkerSettings

A POST enqueues a job and answers its id. The job publishes each token on the run's channel as it comes and
writes the whole text to Postgres at the end. A reader gets a Redis connection of its own and is relayed the
channel, or the row if the run has ended. arq keeps its defaults but for `max_jobs`: ten would queue the load.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import orjson
from arq import create_pool
from arq.connections import RedisSettings
from fastapi import FastAPI, Request
from httpx_sse import aconnect_sse
from pydantic import BaseModel
from redis.asyncio import Redis
from sse_starlette import EventSourceResponse

DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
REDIS_URL = os.environ["BENCH_REDIS_URL"]
PROVIDER_URL = os.environ["BENCH_PROVIDER_URL"]
QUEUE = RedisSettings.from_dsn(REDIS_URL)
END = "\x04"


class Prompt(BaseModel):
    prompt: str
    model: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.queue = await create_pool(QUEUE)
    app.state.redis = Redis.from_url(REDIS_URL, decode_responses=True)
    async with asyncpg.create_pool(DATABASE_URL) as app.state.database:
        await app.state.database.execute("CREATE TABLE IF NOT EXISTS generations (id text PRIMARY KEY, output text)")
        yield
    await app.state.redis.aclose()
    await app.state.queue.aclose()


app = FastAPI(lifespan=lifespan)


@app.post("/generations")
async def create(body: Prompt, request: Request) -> dict[str, str]:
    generation = uuid4().hex
    await request.app.state.queue.enqueue_job("generate", generation, body.prompt, body.model)
    return {"id": generation}


@app.get("/generations/{generation}/stream")
async def stream(generation: str, request: Request) -> EventSourceResponse:
    return EventSourceResponse(relay(generation, request.app.state.redis, request.app.state.database))


async def relay(generation: str, redis: Redis, database: asyncpg.Pool) -> AsyncIterator[dict[str, str]]:
    async with redis.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(generation)
        output = await database.fetchval("SELECT output FROM generations WHERE id = $1", generation)
        if output is not None:
            yield {"data": output}
            yield {"event": "end", "data": "stored"}
            return
        async for message in channel.listen():
            if message["data"] == END:
                yield {"event": "end", "data": "live"}
                return
            yield {"data": message["data"]}


async def generate(ctx: dict[str, Any], generation: str, prompt: str, model: str) -> None:
    request = {"model": model, "stream": True, "messages": [{"role": "user", "content": prompt}]}
    tokens = []
    async with aconnect_sse(ctx["http"], "POST", "/v1/chat/completions", json=request) as source:
        async for event in source.aiter_sse():
            if event.data == "[DONE]":
                break
            choices = orjson.loads(event.data)["choices"]
            token = choices[0]["delta"].get("content") if choices else None
            if token:
                tokens.append(token)
                await ctx["redis"].publish(generation, token)
    await ctx["database"].execute("INSERT INTO generations VALUES ($1, $2)", generation, "".join(tokens))
    await ctx["redis"].publish(generation, END)


async def startup(ctx: dict[str, Any]) -> None:
    limits = httpx.Limits(max_connections=None)
    ctx["http"] = httpx.AsyncClient(base_url=PROVIDER_URL, timeout=120, limits=limits)
    ctx["database"] = await asyncpg.create_pool(DATABASE_URL)


class WorkerSettings:
    functions = (generate,)
    on_startup = startup
    redis_settings = QUEUE
    max_jobs = 1000
