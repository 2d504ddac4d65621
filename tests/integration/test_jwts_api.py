"""The tokens of an application's identity provider, over HTTP, as a process is configured for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, NamedTuple

import httpx
import pytest

from caller import DEADLINE, body
from identity_provider import AUDIENCE, IdentityProvider, Key, providing
from runstream.access.keys import Keys
from runstream.app import create_app
from runstream.domain.principal import Kind
from runstream.settings import Settings
from runstream.storage.database import connect
from runstream.storage.keys import KeyStore

LIFE = 600


class Scene(NamedTuple):
    http: httpx.AsyncClient
    provider: IdentityProvider
    key: Key

    async def get(self, path: str = "/v1/runs", **claims: Any) -> httpx.Response:
        token = self.key.sign(self.provider.claims(**claims))
        return await self.http.get(path, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
async def scene(shared_database_url: str, valkey_server) -> AsyncIterator[Scene]:
    engine = connect(shared_database_url, pool_size=1, timeout=DEADLINE)
    await Keys(KeyStore(engine)).create(kind=Kind.SERVER, tenant="acme", user=None)
    await engine.dispose()
    key = Key("2026-11", "ES256")
    async with providing() as provider:
        provider.publish(key)
        trusted = {"issuer": provider.url, "audience": AUDIENCE, "jwks_url": provider.url, "tenant_claim": "tenant"}
        given = {
            "database_url": shared_database_url,
            "redis_url": valkey_server.url,
            "providers": {"local": {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_keys": ["k"]}},
            "models": {"sim:*": ["local/*"]},
            "jwt": trusted,
            "failed_auth_per_minute": 1_000_000,
        }
        app = create_app(Settings(_env_file=None, **given))
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=DEADLINE)
        async with app.router.lifespan_context(app), http:
            yield Scene(http, provider, key)


async def test_a_process_has_the_keys_before_anybody_asks(scene: Scene) -> None:
    async with asyncio.timeout(DEADLINE):
        while not scene.provider.asked:
            await asyncio.sleep(0.01)
    for _ in range(10):
        assert (await scene.get()).status_code == 200
    assert scene.provider.asked == 1


async def test_a_person_makes_and_sees_runs_of_its_own(scene: Scene) -> None:
    for user, other in (("ada", "bob"), ("bob", "ada")):
        token = scene.key.sign(scene.provider.claims(sub=user))
        bearing = {"Authorization": f"Bearer {token}"}
        made = await scene.http.post("/v1/runs", json=body("sim:1"), headers=bearing)
        assert (made.status_code, made.json()["user"]) == (202, user), made.text
        assert (await scene.get(f"/v1/runs/{made.json()['id']}", sub=user)).status_code == 200
        assert (await scene.get(f"/v1/runs/{made.json()['id']}", sub=other)).status_code == 404


async def test_what_a_token_lacks_is_said_to_whom_it_was_given_and_to_nobody_else(scene: Scene) -> None:
    refused = (await scene.get(sub=None)).json()["error"]
    assert (refused["code"], refused["param"]) == ("invalid_claims", "sub")
    expired = await scene.get(exp=1)
    unknown = await scene.http.get("/v1/runs", headers={"Authorization": "Bearer rs_unknown"})
    for answer in (expired, unknown):
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    said = [{**answer.json()["error"], "request_id": None} for answer in (expired, unknown)]
    assert said[0] == said[1]


async def test_a_runs_token_does_not_outlive_the_jwt_that_it_was_asked_for_with(scene: Scene) -> None:
    ends = int(time.time()) + LIFE
    bearing = {"Authorization": f"Bearer {scene.key.sign(scene.provider.claims(exp=ends))}"}
    run_id = (await scene.http.post("/v1/runs", json=body("sim:1"), headers=bearing)).json()["id"]
    asked = {"expires_in": 24 * 3600}
    minted = (await scene.http.post(f"/v1/runs/{run_id}/token", json=asked, headers=bearing)).json()
    assert datetime.fromisoformat(minted["expires_at"]).timestamp() == ends
    bearing = {"Authorization": f"Bearer {minted['token']}"}
    assert (await scene.http.get(f"/v1/runs/{run_id}", headers=bearing)).status_code == 200
