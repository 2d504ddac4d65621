"""What is answered to whom, on every route there is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.routing import Route

from matrix.columns import TRUSTED, Column, columns, of_tokens
from matrix.rows import ROWS, Row, expected, may_see
from matrix.things import Thing, Things
from runstream.access.keys import Keys
from runstream.access.run_tokens import RunTokens
from runstream.app import create_app
from runstream.domain.principal import Kind
from runstream.settings import Settings
from runstream.storage.database import connect
from runstream.storage.keys import KeyStore
from runstream.storage.runs import RunStore

DEADLINE = 60
OWNERS = {"own": ("acme", "ada"), "of the same tenant": ("acme", "bob"), "foreign": ("globex", "ada")}


def operations(app: FastAPI) -> set[str]:
    """As the OpenAPI document has them."""
    return {f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods}


class Scene(NamedTuple):
    http: httpx.AsyncClient
    things: Things
    keys: Keys
    tokens: RunTokens


@pytest.fixture(scope="module")
def app(shared_database_url: str, valkey_server) -> FastAPI:
    given = {
        "database_url": shared_database_url,
        "redis_url": valkey_server.url,
        "providers": {"local": {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_keys": ["k"]}},
        "models": {"sim:*": ["local/*"]},
        "limits": {"tenant": {"requests_per_minute": 1_000_000}},
        "failed_auth_per_minute": 1_000_000,
        "jwt": TRUSTED,
    }
    return create_app(Settings(_env_file=None, **given))


@pytest.fixture(scope="module")
async def scene(app: FastAPI, shared_database_url: str) -> AsyncIterator[Scene]:
    engine = connect(shared_database_url, pool_size=2, timeout=DEADLINE)
    keys = Keys(KeyStore(engine))
    for tenant in ("acme", "globex"):
        await keys.create(kind=Kind.SERVER, tenant=tenant, user=None)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=DEADLINE)
    async with app.router.lifespan_context(app), http:
        yield Scene(http, Things(engine, RunStore(engine), keys), keys, app.state.services.run_tokens)
    await engine.dispose()


def test_every_route_has_a_row(app: FastAPI) -> None:
    assert operations(app) == set(ROWS)


def test_a_route_that_is_added_without_a_row_is_found_missing(shared_database_url: str) -> None:
    app = create_app(Settings(_env_file=None, database_url=shared_database_url))
    app.add_api_route("/v1/runs/{run_id}/secrets", lambda run_id: run_id, methods=["GET"])
    assert operations(app) - set(ROWS) == {"GET /v1/runs/{run_id}/secrets"}


def test_no_route_is_kept_out_of_the_document_but_the_document_itself(app: FastAPI) -> None:
    assert {route.path for route in routes(app) if not route.include_in_schema} == {"/openapi.json"}


def routes(router: FastAPI | APIRouter) -> Iterator[Route]:
    for route in router.routes:
        included = getattr(route, "original_router", None)
        yield from routes(included) if included else [route]


@pytest.mark.promise("P7")
@pytest.mark.parametrize("name", ROWS)
async def test_everybody_is_answered_what_they_may_see_and_nothing_else(scene: Scene, name: str) -> None:
    row = ROWS[name]
    wrong = []
    of_all = await columns(scene.keys, row.scope)
    for relation, (tenant, user) in OWNERS.items():
        found = []
        for column in of_all:
            found += await faults(scene, name, column, await made(scene, row, tenant, user))
        for_tokens = await made(scene, row, tenant, user)
        for column in await of_tokens(scene.tokens, for_tokens):
            found += await faults(scene, name, column, for_tokens)
        wrong += [f"{name}, {relation}: {fault}" for fault in found]
    assert not wrong, "\n".join(wrong)


async def made(scene: Scene, row: Row, tenant: str, user: str) -> Thing | None:
    kind = row.of or row.shows
    return await scene.things.make(kind, tenant, user) if kind else None


async def faults(scene: Scene, name: str, column: Column, thing: Thing | None) -> list[str]:
    row = ROWS[name]
    method, path = name.split()
    named = thing if row.of else None
    named_so = ("run_id", "key_id", "tenant_id", "name", "webhook_id", "delivery_id", "erasure_id", "user")
    ids = dict.fromkeys(named_so, thing and thing.id)
    if thing and thing.within:
        ids["webhook_id"] = thing.within
    url = path.format(**ids) + row.query
    before = await scene.things.state(named) if named else None
    answer = await scene.http.request(method, url, headers=column.headers, json=row.body)
    right = expected(row, column, named)
    if answer.status_code != right:
        return [f"{column.name}: {answer.status_code} instead of {right}: {answer.text}"]
    found = [
        f"{column.name}: it shows {other}"
        for other in scene.things.all()
        if shows(answer, other) and not may_see(row, column, other)
    ]
    if right != row.ok:
        if named and await scene.things.state(named) != before:
            found.append(f"{column.name}: it was changed")
        if column.lacks and answer.json()["error"]["param"] != row.scope:
            found.append(f"{column.name}: the scope is not named")
    elif row.shows and thing and may_see(row, column, thing) and not shows(answer, thing):
        found.append(f"{column.name}: it is not shown")
    elif row.made and await scene.things.owner_of_run(answer.json()["id"]) != (column.tenant, column.maker):
        found.append(f"{column.name}: it is another's")
    return found


def shows(answer: httpx.Response, thing: Thing) -> bool:
    return thing.mark in answer.text
