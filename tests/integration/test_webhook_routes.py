"""A tenant manages its webhooks by HTTP, and nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from caller import Caller
from runstream.domain.principal import Scope
from stack import Stack

URL = "https://example.invalid/hooks"
EVENTS = ["run.completed", "run.failed", "run.cancelled"]


@pytest.fixture
async def caller(stack: Stack) -> AsyncIterator[Caller]:
    """A tenant's backend: who manages its webhooks."""
    async with Caller.server(stack, f"tenant-{uuid4().hex}", scopes=Scope) as caller:
        yield caller


async def made(caller: Caller, **asked: Any) -> dict[str, Any]:
    answer = await caller.http.post("/v1/webhooks", json={"url": URL, **asked})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/webhooks/{answer.json()['id']}"
    return answer.json()


async def refused(caller: Caller, method: str, path: str, **given: Any) -> tuple[int, str]:
    answer = await caller.http.request(method, f"/v1/webhooks{path}", **given)
    return answer.status_code, answer.json()["error"]["code"]


async def test_a_secret_is_shown_when_it_is_made_and_never_again(caller: Caller) -> None:
    new = await made(caller, description="Orders", include_output=True)
    secret = new.pop("secret")
    assert secret.startswith("whsec_")
    assert (new["events"], new["enabled"], new["secrets"]) == (EVENTS, True, [{"until": None}])
    one = await caller.http.get(f"/v1/webhooks/{new['id']}")
    every = await caller.http.get("/v1/webhooks")
    assert (one.json(), every.json()) == (new, {"data": [new]})
    rotated = (await caller.http.post(f"/v1/webhooks/{new['id']}/rotate", json={"overlap": 60})).raise_for_status()
    assert rotated.json()["secret"] not in {secret, None}
    assert [each["until"] is None for each in rotated.json()["secrets"]] == [True, False]
    at_once = (await caller.http.post(f"/v1/webhooks/{new['id']}/rotate", json={"overlap": 0})).raise_for_status()
    assert at_once.json()["secrets"] == [{"until": None}]


async def test_older_secrets_are_not_cut_short_by_many_rotations(caller: Caller) -> None:
    webhook = await made(caller)
    for _ in range(4):
        (await caller.http.post(f"/v1/webhooks/{webhook['id']}/rotate")).raise_for_status()
    assert await refused(caller, "POST", f"/{webhook['id']}/rotate") == (409, "conflict")


async def test_a_webhook_is_changed_switched_off_and_on_and_deleted(caller: Caller) -> None:
    webhook = await made(caller)
    path = f"/v1/webhooks/{webhook['id']}"
    changes = {"url": URL + "/2", "events": ["run.failed", "run.failed"], "description": "x", "include_output": True}
    changed = (await caller.http.patch(path, json=changes)).raise_for_status().json()
    assert {name: changed[name] for name in changes} == {**changes, "events": ["run.failed"]}
    off = (await caller.http.patch(path, json={"enabled": False})).raise_for_status().json()
    assert (off["enabled"], off["disabled_reason"], off["url"]) == (False, "asked", URL + "/2")
    assert await refused(caller, "POST", f"/{webhook['id']}/test") == (409, "conflict")
    on = (await caller.http.patch(path, json={"enabled": True})).raise_for_status().json()
    assert (on["enabled"], on["disabled_reason"], on["disabled_at"]) == (True, None, None)
    assert (await caller.http.delete(path)).status_code == 204
    for method in ("GET", "DELETE"):
        assert await refused(caller, method, f"/{webhook['id']}") == (404, "not_found")


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com/", "ftp://example.com/", "https://", "https:///x", "example.com", "https://[::1"),
        *(
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://localhost/",
            "https://a.localhost/",
        ),
        *("https://169.254.169.254/latest/meta-data", "https://10.0.0.1:8443/", "https://ada:secret@example.com/"),
        *("https://example.com/#x", "https://example.com/" + "x" * 2048, ""),
    ],
)
async def test_an_address_that_cannot_be_sent_to_is_refused_by_name(caller: Caller, url: str) -> None:
    answer = await caller.http.post("/v1/webhooks", json={"url": url})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "url"), answer.text
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    "asked",
    [
        *({"events": []}, {"events": ["run.started"]}, {"events": "run.failed"}, {"secret": "whsec_mine"}),
        *({"description": "x" * 257}, {"include_output": "perhaps"}, {"enabled": False}),
    ],
)
async def test_what_else_is_not_understood_is_refused(caller: Caller, asked: dict[str, Any]) -> None:
    assert await refused(caller, "POST", "", json={"url": URL, **asked}) == (422, "invalid_field")


async def test_a_tenant_has_twenty_at_the_most(caller: Caller) -> None:
    for _ in range(20):
        await made(caller)
    assert await refused(caller, "POST", "", json={"url": URL}) == (409, "conflict")


async def test_deliveries_are_listed_a_page_at_a_time_the_newest_first(caller: Caller) -> None:
    path = f"/v1/webhooks/{(await made(caller))['id']}"
    tests = [(await caller.http.post(f"{path}/test")).raise_for_status().json() for _ in range(3)]
    assert {each["event"] for each in tests} == {"webhook.test"}
    seen, cursor = [], {}
    while True:
        page = (await caller.http.get(f"{path}/deliveries", params={"limit": 2, **cursor})).raise_for_status().json()
        seen += [each["id"] for each in page["data"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seen == sorted((each["id"] for each in tests), reverse=True)
    delivered = await caller.http.get(f"{path}/deliveries", params={"status": "delivered"})
    assert delivered.json() == {"data": [], "next": None}


@pytest.mark.promise("P7")
async def test_webhooks_and_deliveries_of_another_tenant_are_not_there(stack: Stack, caller: Caller) -> None:
    webhook = await made(caller)
    path = f"/{webhook['id']}"
    delivery = (await caller.http.post(f"/v1/webhooks{path}/test")).raise_for_status().json()
    async with Caller.server(stack, f"{caller.tenant}-x", scopes=Scope) as stranger:
        own = await made(stranger)
        for method, below in (
            *(("GET", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/test"), ("GET", "/deliveries")),
            ("POST", f"/deliveries/{delivery['id']}/redeliver"),
        ):
            assert await refused(stranger, method, path + below) == (404, "not_found"), (method, below)
        assert await refused(stranger, "PATCH", path, json={"enabled": False}) == (404, "not_found")
        redeliver = f"/{own['id']}/deliveries/{delivery['id']}/redeliver"
        assert await refused(stranger, "POST", redeliver) == (404, "not_found")
        assert [each["id"] for each in (await stranger.http.get("/v1/webhooks")).json()["data"]] == [own["id"]]
    assert (await caller.http.get(f"/v1/webhooks{path}")).json()["enabled"]
