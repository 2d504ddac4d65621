"""Who did what is in the audit log, which nobody changes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

import asyncpg
import httpx
import pytest

from matrix.audited import BY_ANOTHER, BY_ANYBODY, BY_OPERATORS, NOT_AUDITED, OF_ALL, OF_TENANTS
from matrix.rows import ROWS
from matrix.things import Thing, Things
from runstream.access.keys import Keys
from runstream.app import create_app
from runstream.domain.audit import Action, Actor, ActorKind
from runstream.domain.principal import Kind, Scope
from runstream.settings import Settings
from runstream.storage.database import connect
from runstream.storage.keys import KeyStore
from runstream.storage.runs import RunStore

DEADLINE = 60
ACME, ADA = {"Runstream-Tenant": "acme"}, {"Runstream-User": "ada"}
AGENT = "shop/1.2 (an app)"
AUDITED = [*BY_ANYBODY, *BY_ANOTHER, *BY_OPERATORS, *OF_ALL]


class Scene(NamedTuple):
    http: httpx.AsyncClient
    things: Things
    keys: Keys
    database: asyncpg.Connection
    ids: dict[str, str]
    headers: dict[str, dict[str, str]]

    async def ask(self, who: str, name: str, thing: Thing | None, **headers: str) -> tuple[httpx.Response, list[Any]]:
        """The answer, and what the log has of the request, in order."""
        request_id = uuid4().hex
        row, (method, path) = ROWS[name], name.split()
        named_so = ("run_id", "key_id", "tenant_id", "name", "webhook_id", "delivery_id", "erasure_id", "user")
        ids = dict.fromkeys(named_so, thing and thing.id)
        if thing and thing.within:
            ids["webhook_id"] = thing.within
        given = {**self.headers[who], "X-Request-ID": request_id, "User-Agent": AGENT, **headers}
        answer = await self.http.request(method, path.format(**ids) + row.query, headers=given, json=row.body)
        return answer, await self.entries(request_id)

    async def entries(self, request_id: str) -> list[asyncpg.Record]:
        return await self.database.fetch("select * from audit where request_id = $1 order by id", request_id)

    async def thing(self, kind: str) -> Thing:
        return await self.things.make(kind, "acme", "ada")


@pytest.fixture(scope="module")
async def scene(shared_database_url: str, valkey_server) -> AsyncIterator[Scene]:
    settings = {
        "database_url": shared_database_url,
        "redis_url": valkey_server.url,
        "providers": {"local": {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_keys": ["k"]}},
        "models": {"sim:*": ["local/*"]},
    }
    app = create_app(Settings(_env_file=None, **settings))
    engine = connect(shared_database_url, pool_size=2, timeout=DEADLINE)
    database = await asyncpg.connect(shared_database_url, timeout=DEADLINE)
    keys = Keys(KeyStore(engine))
    scopes = frozenset(Scope)
    made = {
        "operator": await keys.create(kind=Kind.OPERATOR, tenant=None, user=None, scopes=scopes),
        "server": await keys.create(kind=Kind.SERVER, tenant="acme", user="app", scopes=scopes),
        "other server": await keys.create(kind=Kind.SERVER, tenant="globex", user="app", scopes=scopes),
        "user": await keys.create(kind=Kind.USER, tenant="acme", user="ada"),
    }
    headers = {who: {"Authorization": f"Bearer {each.key}"} for who, each in made.items()}
    headers["operator"] |= ACME
    headers["operator of all"] = {"Authorization": headers["operator"]["Authorization"]}
    headers["server for a user"] = headers["server"] | ADA
    ids = {who: each.record.id for who, each in made.items()}
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=DEADLINE)
    async with app.router.lifespan_context(app), http:
        yield Scene(http, Things(engine, RunStore(engine), keys), keys, database, ids, headers)
    await database.close()
    await engine.dispose()


def test_it_is_decided_of_every_route_whether_it_is_audited() -> None:
    """`test_every_route_has_a_row` has the rows be those of the OpenAPI document."""
    assert {*AUDITED, *OF_TENANTS, *NOT_AUDITED} == set(ROWS)
    assert not {*AUDITED, *OF_TENANTS} & {*NOT_AUDITED}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("who", ["operator", "server", "server for a user", "user"])
async def test_what_is_done_is_in_the_log_with_who_did_it_and_from_where(scene: Scene, who: str, name: str) -> None:
    row = ROWS[name]
    thing = await scene.thing(row.of) if row.of else None
    headers = ADA if (who, name) == ("operator", "POST /v1/runs") else {}
    answer, entries = await scene.ask(who, name, thing, **headers)
    if answer.status_code == 403:
        assert not entries
        return
    assert answer.status_code == row.ok, answer.text
    expected = [*BY_ANYBODY.get(name, []), *OF_ALL.get(name, [])]
    if who in {"operator", "server"}:
        expected += BY_ANOTHER.get(name, [])
    if who == "operator":
        expected += BY_OPERATORS.get(name, [])
    assert [entry["action"] for entry in entries] == expected
    for entry in entries:
        target = thing.id if thing else "acme" if name == "GET /v1/export" else answer.json().get("id")
        if entry["action"] in {"run.submitted", "run.listed"}:
            target = None
        assert (entry["target_type"], entry["target_id"]) == (entry["action"].split(".")[0], target)
        kind = who.partition(" ")[0]
        assert (entry["principal_kind"], entry["principal_id"]) == (kind, scene.ids[kind])
        assert entry["tenant"] == (None if name in OF_ALL else "acme")
        assert (entry["address"], entry["user_agent"]) == ("127.0.0.1", AGENT)
        assert abs((entry["at"] - datetime.now(UTC)).total_seconds()) < DEADLINE


async def test_each_change_of_a_tenant_is_in_the_log_of_that_tenant_and_what_changes_nothing_is_not(
    scene: Scene,
) -> None:
    tenant, headers = f"tenant-{uuid4().hex}", scene.headers["operator of all"]
    path, terms = f"/v1/tenants/{tenant}", {"overrides": {"retention_days": 7}}
    steps: list[tuple[str, str, dict[str, Any] | None, list[tuple[str, dict[str, Any]]]]] = [
        ("POST", "/v1/tenants", {"id": tenant}, [("tenant.created", {})]),
        ("PATCH", path, {"status": "active"}, []),
        ("PATCH", path, terms, [("tenant.changed", {"changed": ["overrides"]})]),
        ("PATCH", path, {**terms, "plan": None}, []),
        ("DELETE", path, None, []),  # it is not suspended
        ("PATCH", path, {"status": "suspended"}, [("tenant.suspended", {})]),
        ("PATCH", path, {"status": "suspended"}, []),
        (
            "PATCH",
            path,
            {"status": "suspended", "cancel_running": True},
            [("tenant.suspended", {"cancel_running": True})],
        ),
        (
            "PATCH",
            path,
            {"status": "active", "overrides": None},
            [("tenant.changed", {"changed": ["overrides"]}), ("tenant.resumed", {})],
        ),
        ("PATCH", path, {"status": "suspended"}, [("tenant.suspended", {})]),
        ("DELETE", path, None, [("tenant.removal_requested", {})]),
        ("DELETE", path, None, []),
    ]
    expected, seen = [], set()
    for method, at, body, entered in steps:
        expected += [(action, tenant, tenant, json.dumps(details)) for action, details in entered]
        if entered:
            async with log_away(scene):
                answer = await scene.http.request(method, at, headers=headers, json=body)
            assert answer.status_code == 503, answer.text
        await scene.http.request(method, at, headers=headers, json=body)
        rows = await scene.database.fetch("select * from audit where tenant = $1 order by id", tenant)
        assert [(row["action"], row["tenant"], row["target_id"], row["details"]) for row in rows] == expected
        seen |= {Action(action) for action, _ in entered}
    assert seen == {action for actions in OF_TENANTS.values() for action in actions}


async def test_what_is_set_is_in_the_log_only_where_it_says_something_else_and_in_short(scene: Scene) -> None:
    name = f"flag-{uuid4().hex}"
    half = {"of": {"model": "m"}, "share": 0.5}
    said = [half, half, {**half, "on": False, "tenants": {"globex": 1}}, half]
    for rule in said:
        path = f"/v1/flags/{name}"
        (await scene.http.put(path, headers=scene.headers["operator of all"], json=rule)).raise_for_status()
    rows = await scene.database.fetch("select details from audit where target_id = $1 order by id", name)
    says = ["of", "on", "share", "tenants"]
    assert [json.loads(row["details"]) for row in rows] == [
        {"says": says, "on": on, "share": 0.5} for on in (True, False, True)
    ]


async def test_a_key_that_makes_its_tenant_has_that_in_the_log(scene: Scene) -> None:
    by, tenant = Actor(ActorKind.COMMAND, "root", "req_1"), f"tenant-{uuid4().hex}"
    for _ in range(2):
        await scene.keys.create(kind=Kind.SERVER, tenant=tenant, user="app", by=by)
    rows = await scene.database.fetch("select action from audit where tenant = $1 order by id", tenant)
    assert sorted(row["action"] for row in rows) == ["key.created", "key.created", "tenant.created"]


async def test_entries_hold_neither_content_nor_secrets(scene: Scene) -> None:
    answers = []
    for name in BY_ANYBODY:
        row = ROWS[name]
        answer, _ = await scene.ask("server", name, await scene.thing(row.of) if row.of else None)
        answers.append(answer)
    secrets = [
        answer.json()[name]
        for answer in answers
        if answer.headers.get("content-type") == "application/json"
        for name in ("key", "secret")
        if name in answer.json()
    ]
    assert len(secrets) == 4
    log = await scene.database.fetchval("select string_agg(audit::text, ' ') from audit")
    assert not [secret for secret in secrets if secret in log]
    assert "said by" not in log


async def test_a_run_that_is_listed_read_or_submitted_again_by_an_operator_is_in_the_log(scene: Scene) -> None:
    key = {"Idempotency-Key": uuid4().hex, **ADA}
    for expected in (["run.submitted"], ["run.submitted", "run.read"]):
        answer, entries = await scene.ask("operator", "POST /v1/runs", None, **key)
        assert answer.status_code == 202
        assert [entry["action"] for entry in entries] == expected
    assert entries[-1]["target_id"] == answer.json()["id"]


async def test_what_did_not_come_to_pass_is_not_in_the_log(scene: Scene) -> None:
    thing = await scene.thing("key")
    for status, count in ((204, 1), (404, 0)):
        answer, entries = await scene.ask("server", "DELETE /v1/keys/{key_id}", thing)
        assert (answer.status_code, len(entries)) == (status, count)
    answer, entries = await scene.ask("other server", "DELETE /v1/keys/{key_id}", await scene.thing("key"))
    assert (answer.status_code, entries) == (404, [])


@asynccontextmanager
async def log_away(scene: Scene) -> AsyncIterator[None]:
    await scene.database.execute("alter table audit rename to audit_away")
    try:
        yield
    finally:
        await scene.database.execute("alter table audit_away rename to audit")


@pytest.mark.parametrize("name", [*AUDITED])
async def test_nothing_is_shown_or_changed_that_the_log_cannot_take(scene: Scene, name: str) -> None:
    row = ROWS[name]
    thing = await scene.thing(row.of) if row.of else None
    before = await scene.things.state(thing) if thing else None
    headers = ADA if name == "POST /v1/runs" else {}
    async with log_away(scene):
        answer, _ = await asked_without_log(scene, "operator", name, thing, **headers)
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] == "unavailable"
    if thing:
        assert await scene.things.state(thing) == before
        assert f"said by {thing.id}" not in answer.text


async def asked_without_log(scene: Scene, who: str, name: str, thing: Thing | None, **headers: str) -> Any:
    class Unread(Scene):
        async def entries(self, request_id: str) -> list[asyncpg.Record]:
            return []

    return await Unread(*scene).ask(who, name, thing, **headers)


async def test_who_is_not_audited_does_not_need_the_log(scene: Scene) -> None:
    for name in BY_OPERATORS:
        row = ROWS[name]
        things = {who: row.of and await scene.thing(row.of) for who in ("user", "server", "server for a user")}
        if name in BY_ANOTHER:
            del things["server"]
        async with log_away(scene):
            for who, thing in things.items():
                answer, _ = await asked_without_log(scene, who, name, thing)
                assert answer.status_code == row.ok, answer.text


@pytest.mark.parametrize(
    "change", ["update audit set action = 'x'", "delete from audit", "truncate audit", "delete from audit where false"]
)
async def test_nobody_changes_the_log_or_removes_from_it(scene: Scene, change: str) -> None:
    for login in ("reset role", "set role intruder; set runstream.removes_audit = 'on'"):
        transaction = scene.database.transaction()
        await transaction.start()
        try:
            await scene.database.execute("create role intruder; grant all on audit to intruder;" + login)
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only appended to"):
                await scene.database.execute(change)
        finally:
            await transaction.rollback()


async def test_what_is_to_be_kept_no_longer_is_removed_by_whom_that_is_granted_to(scene: Scene) -> None:
    for tenant, who in (("acme", "server"), ("globex", "other server")):
        thing = await scene.things.make("key", tenant, "ada")
        await scene.ask(who, "DELETE /v1/keys/{key_id}", thing)
    count = "select count(*) from audit where tenant = $1"
    before = {tenant: await scene.database.fetchval(count, tenant) for tenant in ("acme", "globex")}
    transaction = scene.database.transaction()
    await transaction.start()
    try:
        remove = "select remove_audit('globex', now() - make_interval(secs => $1))"
        assert await scene.database.fetchval(remove, 3600.0) == 0
        assert await scene.database.fetchval(remove, -60.0) == before["globex"]
        assert await scene.database.fetchval(count, "acme") == before["acme"]
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only appended to"):
            await scene.database.execute("delete from audit")
    finally:
        await transaction.rollback()
    async with scene.database.transaction():
        await scene.database.execute("create role intruder")
        await scene.database.execute("set local role intruder")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for function"):
            async with scene.database.transaction():
                await scene.database.fetchval(remove, 0.0)
        await scene.database.execute("reset role; drop role intruder")


async def test_pages_of_the_log_follow_each_other_and_fit_what_was_asked_for(scene: Scene) -> None:
    things = [await scene.thing("key") for _ in range(3)]
    began = datetime.now(UTC)
    for thing in things:
        await scene.ask("server", "DELETE /v1/keys/{key_id}", thing)
    read = await scene.thing("completed run")
    await scene.ask("operator", "GET /v1/runs/{run_id}", read)
    await scene.ask("operator", "GET /v1/runs/{run_id}", read)

    async def listed(who: str, **query: Any) -> dict[str, Any]:
        answer = await scene.http.get("/v1/audit", params=query, headers=scene.headers[who])
        return answer.raise_for_status().json()

    first = await listed("server", action="key.revoked", limit=2)
    rest = await listed("server", action="key.revoked", limit=2, cursor=first["next"])
    revoked = [each["target"]["id"] for each in first["data"] + rest["data"]]
    assert revoked[:3] == [thing.id for thing in reversed(things)]
    (one,) = (await listed("server", target=things[0].id))["data"]
    assert one["principal"] == {"kind": "server", "id": scene.ids["server"], "user": "app"}
    assert (one["address"], one["user_agent"], one["tenant"]) == ("127.0.0.1", AGENT, "acme")
    since = await listed("server", **{"from": began.isoformat()})
    assert [each["action"] for each in since["data"]] == ["run.read"] * 2 + ["key.revoked"] * 3
    at = since["data"][2]["at"]
    assert [each["action"] for each in (await listed("server", **{"from": at}))["data"]][-1] == "key.revoked"
    assert len((await listed("server", **{"from": began.isoformat(), "to": at}))["data"]) == 2
    ages = {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59.999999Z"}
    assert (await listed("server", target=read.id, **ages)) == (await listed("server", target=read.id))
    by_operator = await listed("server", principal=scene.ids["operator"], target=read.id)
    assert {(each["address"], each["user_agent"]) for each in by_operator["data"]} == {(None, None)}
    seen = await listed("operator of all", target=read.id)
    assert {each["address"] for each in seen["data"]} == {"127.0.0.1"}


@pytest.mark.promise("P7")
async def test_a_tenant_sees_its_own_entries_alone_and_an_operator_all(scene: Scene) -> None:
    mine, theirs = await scene.thing("key"), await scene.things.make("key", "globex", "ada")
    await scene.ask("server", "DELETE /v1/keys/{key_id}", mine)
    await scene.ask("other server", "DELETE /v1/keys/{key_id}", theirs)

    async def sees(who: str, thing: Thing, **headers: str) -> bool:
        given = {**scene.headers[who], **headers}
        for query in ({"target": thing.id}, {"action": "key.revoked"}):
            answer = await scene.http.get("/v1/audit", params={"limit": 100, **query}, headers=given)
            found = thing.id in answer.raise_for_status().text
        return found

    assert [await sees("server", each) for each in (mine, theirs)] == [True, False]
    assert [await sees("other server", each) for each in (mine, theirs)] == [False, True]
    assert [await sees("operator of all", each) for each in (mine, theirs)] == [True, True]
    assert [await sees("operator", each) for each in (mine, theirs)] == [True, False]
