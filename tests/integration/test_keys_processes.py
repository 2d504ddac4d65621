"""Keys as several API processes check them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from itertools import cycle

import asyncpg
import httpx
import pytest

from runstream.access.secrets import new_key
from runstream.domain.principal import Kind, Scope
from stack import Stack

DEADLINE = 60
PROCESSES = 2
SECONDS = 3


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=DEADLINE) as client:
        yield client


async def status(http: httpx.AsyncClient, url: str, key: str, **headers: str) -> int:
    headers = {"Authorization": f"Bearer {key}", **headers}
    return (await http.get(f"{url}/v1/limits", headers=headers)).status_code


async def test_two_processes_refuse_a_revoked_key_and_take_fewer_queries_than_there_are_keys_and_seconds(
    make_stack: Callable[..., Stack], http: httpx.AsyncClient
) -> None:
    stack = make_stack(apis=PROCESSES, workers=0)
    keys = [stack.create_key("acme", f"user-{number}") for number in range(10)]
    admin = stack.create_key("acme", None, Kind.SERVER, list(Scope))
    began, calls = time.monotonic(), 0
    for key, url in zip(cycle(keys), cycle([url for url in stack.urls for _ in keys]), strict=False):
        assert await status(http, url, key) == 200
        calls += 1
        if time.monotonic() - began > SECONDS:
            break
    assert calls > 10 * len(keys)

    bearing = {"Authorization": f"Bearer {admin}"}
    listed = (await http.get(f"{stack.url}/v1/keys", headers=bearing)).json()["data"]
    (revoked,) = [each["id"] for each in listed if keys[0].startswith(each["hint"])]
    assert (await http.delete(f"{stack.url}/v1/keys/{revoked}", headers=bearing)).status_code == 204
    at = time.monotonic()
    for url in stack.urls:
        while await status(http, url, keys[0]) != 401:
            assert time.monotonic() - at < 2  # a second, and what a busy machine adds
        assert await status(http, url, keys[1]) == 200

    seconds = time.monotonic() - began
    for api in list(stack.apis):
        stack.stop(api)  # its connections then tell what they have done
    others = 2  # the list, and the revocation
    # Each key once in each process, the revoked one and the unknown one again, and each second what has changed.
    assert await scans_of_keys(stack) - others <= PROCESSES * (len(keys) + 3 + seconds)


async def scans_of_keys(stack: Stack) -> int:
    """How many times Postgres has looked into the table of keys: no less than it was asked about them."""
    connection = await asyncpg.connect(stack.database_url, timeout=DEADLINE)
    try:
        return await connection.fetchval(
            "select seq_scan + coalesce(idx_scan, 0) from pg_stat_user_tables where relname = 'api_keys'"
        )
    finally:
        await connection.close()


async def test_failures_are_counted_by_the_address_that_a_trusted_proxy_tells_of(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    allowed = 2
    configured = {"failed_auth_per_minute": str(allowed), "trusted_proxies": '["127.0.0.0/8", "10.0.0.0/8"]'}
    behind, alone = stack.start_api(**configured), stack.start_api(failed_auth_per_minute=str(allowed))
    forwarded = {"X-Forwarded-For": "203.0.113.9, 198.51.100.7, 10.1.2.3"}
    try:
        for api, address in ((behind, "198.51.100.7"), (alone, "127.0.0.1")):
            for _ in range(allowed + 1):
                assert "authentications_slowed" not in api.output()
                assert await status(http, api.url, new_key(), **forwarded) == 401
            (line,) = [line for line in api.output().splitlines() if "authentications_slowed" in line]
            assert f'"{address}"' in line
            assert await status(http, api.url, stack.key, **forwarded) == 200
    finally:
        for api in (behind, alone):
            stack.kill(api)
