"""A tenant's keys over HTTP, and acting for others with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest

from caller import DEADLINE, Caller, body
from runstream.domain.principal import Kind, Scope
from stack import Stack


@pytest.fixture
def tenant() -> str:
    return f"tenant-{uuid4().hex}"


@pytest.fixture
async def admin(stack: Stack, tenant: str) -> AsyncIterator[Caller]:
    """A server of the tenant's that may do everything."""
    async with Caller(stack.url, stack.create_key(tenant, None, Kind.SERVER, list(Scope)), tenant, "") as admin:
        yield admin


async def made(admin: Caller, **wanted) -> dict:
    answer = await admin.http.post("/v1/keys", json={"kind": "user", "user": "ada", **wanted})
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


async def status_with(admin: Caller, key: str, path: str = "/v1/runs") -> int:
    return (await admin.http.get(path, headers={"Authorization": f"Bearer {key}"})).status_code


async def until_refused(admin: Caller, key: str) -> None:
    """Within a second; how long it took is measured elsewhere."""
    began = datetime.now(UTC)
    while await status_with(admin, key) != 401:
        assert datetime.now(UTC) - began < timedelta(seconds=10)


async def test_a_key_is_made_listed_and_revoked_and_shown_once(admin, tenant):
    new = await made(admin)
    assert new["scopes"] == ["runs:read", "runs:write", "usage:read"]
    assert (new["tenant"], new["user"], new["kind"], new["expires_at"]) == (tenant, "ada", "user", None)
    assert await status_with(admin, new["key"]) == 200
    listed = await admin.http.get("/v1/keys")
    assert listed.json()["data"][0]["id"] == new["id"]
    assert new["key"] not in listed.text
    assert admin.key not in listed.text
    assert (await admin.http.delete(f"/v1/keys/{new['id']}")).status_code == 204
    await until_refused(admin, new["key"])
    assert (await admin.http.delete(f"/v1/keys/{new['id']}")).status_code == 404
    assert (await admin.http.get("/v1/keys")).json()["data"][0]["revoked_at"]


async def test_pages_of_keys_follow_each_other(admin):
    ids = [(await made(admin))["id"] for _ in range(4)]
    page = (await admin.http.get("/v1/keys", params={"limit": 3})).json()
    rest = (await admin.http.get("/v1/keys", params={"limit": 3, "cursor": page["next"]})).json()
    assert [each["id"] for each in page["data"] + rest["data"]][:4] == ids[::-1]
    assert rest["next"] is None


async def test_a_rotated_key_goes_on_for_its_overlap_with_the_scopes_and_the_length_of_life_of_the_old_one(admin):
    ends = datetime.now(UTC) + timedelta(days=10)
    old = await made(admin, scopes=["runs:read"], expires_at=ends.isoformat())
    rotated = await admin.http.post(f"/v1/keys/{old['id']}/rotate", json={"overlap": 60})
    assert rotated.status_code == 201, rotated.text
    new = rotated.json()
    assert (new["user"], new["scopes"]) == ("ada", ["runs:read"])
    assert datetime.fromisoformat(new["expires_at"]) > ends
    assert await status_with(admin, old["key"]) == await status_with(admin, new["key"]) == 200
    shown = {each["id"]: each for each in (await admin.http.get("/v1/keys")).json()["data"]}
    left = datetime.fromisoformat(shown[old["id"]]["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=0) < left <= timedelta(seconds=60)
    assert shown[old["id"]]["replaced_by"] == new["id"]
    assert (await admin.http.post(f"/v1/keys/{old['id']}/rotate", json={})).status_code == 409
    ended = (await admin.http.post(f"/v1/keys/{new['id']}/rotate", json={"overlap": 0})).json()
    await until_refused(admin, new["key"])
    assert await status_with(admin, ended["key"]) == 200


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"kind": "operator"}, "kind"),
        ({"user": None}, "user"),
        ({"user": "a\nb"}, "user"),
        ({"user": "x" * 129}, "user"),
        ({"scopes": ["admin"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["runs:everything"]}, "scopes.0"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "9000-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"tenant": "globex"}, "tenant"),
    ],
)
async def test_what_is_no_key_is_refused_with_what_to_change(admin, wanted, param):
    answer = await admin.http.post("/v1/keys", json={"kind": "user", "user": "ada", **wanted})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("overlap", [-1, 31 * 86400, 1.5, "1h"])
async def test_an_overlap_is_bounded(admin, overlap):
    old = await made(admin)
    answer = await admin.http.post(f"/v1/keys/{old['id']}/rotate", json={"overlap": overlap})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "overlap"


@pytest.mark.parametrize("key_id", ["key_1", "key_" + "0" * 26, "%00", "key_" + "u" * 26])
async def test_what_is_no_key_of_the_tenants_is_not_there(admin, key_id):
    assert (await admin.http.delete(f"/v1/keys/{key_id}")).status_code == 404
    assert (await admin.http.post(f"/v1/keys/{key_id}/rotate", json={})).status_code == 404


async def test_nobody_makes_or_rotates_a_key_that_may_do_more_than_they(stack, admin, tenant):
    theirs = await made(admin, scopes=["runs:write"])
    less = stack.create_key(tenant, None, Kind.SERVER, [Scope.ADMIN, Scope.RUNS_READ])
    async with Caller(stack.url, less, tenant, "") as lesser:
        for asking in (
            lesser.http.post("/v1/keys", json={"kind": "server", "scopes": ["usage:read"]}),
            lesser.http.post(f"/v1/keys/{theirs['id']}/rotate", json={}),
        ):
            refused = await asking
            assert refused.status_code == 403
            assert refused.json()["error"]["code"] == "missing_scope"
        allowed = await lesser.http.post("/v1/keys", json={"kind": "server"})
        assert allowed.json()["scopes"] == ["runs:read"]


async def test_a_server_makes_and_sees_runs_of_the_user_that_it_acts_for(stack, admin, tenant):
    acting = {"Runstream-User": "J%C3%B6rg%20100%25"}
    answer = await admin.http.post("/v1/runs", json=body("sim:1"), headers=acting)
    assert answer.json()["user"] == "Jörg 100%"
    run_id = answer.json()["id"]
    assert (await admin.http.get(f"/v1/runs/{run_id}", headers=acting)).status_code == 200
    assert (await admin.http.get(f"/v1/runs/{run_id}", headers={"Runstream-User": "bob"})).status_code == 404
    async with Caller(stack.url, stack.create_key(tenant, "Jörg 100%"), tenant, "") as person:
        assert await person.list() == [run_id]
    nameless = await admin.http.post("/v1/runs", json=body("sim:1"))
    assert nameless.status_code == 400
    assert nameless.json()["error"]["code"] == "user_required"


@pytest.mark.parametrize("user", ["", "a b", "%", "%zz", "%ff", "%0A", "x" * 129, "J\xf6rg".encode("latin-1")])
async def test_a_header_that_names_no_user_is_refused(admin, user):
    answer = await admin.http.get("/v1/runs", headers={"Runstream-User": user})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "invalid_field"


async def test_an_operator_says_of_which_tenant_it_reads(stack, caller):
    run_id = await caller.create("sim:1")
    async with httpx.AsyncClient(
        base_url=stack.url,
        headers={"Authorization": f"Bearer {stack.create_key(None, None, Kind.OPERATOR)}"},
        timeout=DEADLINE,
    ) as operator:
        silent = await operator.get(f"/v1/runs/{run_id}")
        assert (silent.status_code, silent.json()["error"]["code"]) == (400, "tenant_required")
        named = {"Runstream-Tenant": caller.tenant}
        assert (await operator.get(f"/v1/runs/{run_id}", headers=named)).json()["id"] == run_id
        key = (await operator.post("/v1/keys", json={"kind": "user", "user": "eve"}, headers=named)).json()
        assert key["tenant"] == caller.tenant
        nowhere = await operator.post("/v1/runs", json=body("sim:1"), headers={"Runstream-Tenant": uuid4().hex})
        assert nowhere.status_code == 404


async def test_a_users_limits_are_its_own_and_a_server_without_a_user_has_none_of_a_users(make_stack):
    stack = make_stack(workers=0, limits='{"user": {"requests_per_minute": 9}, "tenant": {"concurrent_runs": 5}}')
    both = ["user.requests_per_minute", "tenant.concurrent_runs"]
    for user, kind, names in (("ada", Kind.USER, both), (None, Kind.SERVER, both[1:]), ("job", Kind.SERVER, both)):
        async with Caller(stack.url, stack.create_key("acme", user, kind), "acme", "") as asking:
            limits = (await asking.http.get("/v1/limits")).raise_for_status().json()["data"]
            assert sorted(limit["name"] for limit in limits) == sorted(names)
