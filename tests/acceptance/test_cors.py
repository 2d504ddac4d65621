"""Pages of other origins, in a real browser and as a browser asks for leave."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import BrowserContext, Page

from caller import body, words
from stack import Api, Stack

DEADLINE = 60

FOLLOW = """
async ([url, key]) => {
  const { RunstreamClient } = await import("/console/runstream.js");
  const client = new RunstreamClient({ baseUrl: url, key });
  const input = { messages: [{ role: "user", content: "Count" }] };
  const run = await client.createRun({ feature: "chat", model: "sim:60:40", input });
  const texts = [];
  for await (const event of client.follow(run.id)) {
    if (event.type === "run.delta") texts.push(event.data.text);
    if (texts.length === 5) break;
  }
  const { id } = await client.getRun(run.id);
  let last;
  for await (last of client.follow(id, { after: `1-${texts.join("").length + 1}` })) texts.push(last.data.text ?? "");
  return { text: texts.join(""), last: last.type, pieces: texts.length };
}
"""
FOLLOW_WITH_A_TOKEN = """
async ([url, run, token]) => {
  const { RunstreamClient, RunstreamError } = await import("/console/runstream.js");
  const client = new RunstreamClient({ baseUrl: url, getToken: async () => token });
  const texts = [];
  for await (const event of client.follow(run)) {
    if (event.type === "run.delta") texts.push(event.data.text);
    if (texts.length === 3) break;
  }
  await client.cancelRun(run);
  let last;
  for await (last of client.follow(run, { after: `1-${texts.join("").length + 1}` })) texts.push(last.data.text ?? "");
  const refused = await client.listRuns().catch((error) => error);
  return { text: texts.join(""), last: last.type, refused: refused.status };
}
"""
ASK = """
async ([url, key, headers]) => {
  const input = { messages: [{ role: "user", content: "Count" }] };
  const body = JSON.stringify({ feature: "chat", model: "sim:5", input });
  headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json", ...headers };
  try {
    const answer = await fetch(`${url}/v1/runs`, { method: "POST", headers, body });
    return { status: answer.status, headers: Object.fromEntries(answer.headers), body: await answer.json() };
  } catch (error) {
    return { refused: error.name };
  }
}
"""


@pytest.fixture(scope="module")
def app_origin(stack: Stack) -> str:
    """The shared stack, as an application whose pages call the other API process."""
    return f"http://app.test:{urlsplit(stack.url).port}"


@pytest.fixture(scope="module")
def api(stack: Stack, app_origin: str) -> Iterator[Api]:
    """It gives leave to that application's pages alone."""
    api = stack.start_api(cors_origins=json.dumps([app_origin]))
    yield api
    stack.kill(api)


@pytest.fixture
async def page(context: BrowserContext, app_origin: str) -> AsyncIterator[Page]:
    page = await context.new_page()
    await page.goto(f"{app_origin}/healthz")
    return page


async def test_a_page_of_a_listed_origin_streams_a_run_as_it_comes(stack: Stack, api: Api, page: Page) -> None:
    seen = await page.evaluate(FOLLOW, [api.url, stack.key])
    assert (seen["text"], seen["last"]) == (words(60), "run.completed")
    assert seen["pieces"] > 10


async def test_a_page_that_has_a_runs_token_alone_follows_and_cancels_it(stack: Stack, api: Api, page: Page) -> None:
    bearing = {"Authorization": f"Bearer {stack.key}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=bearing, timeout=DEADLINE) as backend:
        run_id = (await backend.post("/v1/runs", json=body("sim:1000:20"))).json()["id"]
        asked = {"access": "read_and_cancel", "expires_in": 60}
        token = (await backend.post(f"/v1/runs/{run_id}/token", json=asked)).json()["token"]
        seen = await page.evaluate(FOLLOW_WITH_A_TOKEN, [api.url, run_id, token])
        assert (seen["last"], seen["refused"]) == ("run.cancelled", 403)
        assert (await backend.get(f"/v1/runs/{run_id}")).json()["output"]["text"] == seen["text"] != ""


async def test_such_a_page_reads_what_is_said_in_headers_and_why_something_is_refused(
    stack: Stack, api: Api, page: Page
) -> None:
    accepted = await page.evaluate(ASK, [api.url, stack.key, {"Idempotency-Key": "cors", "Prefer": "wait=30"}])
    assert accepted["headers"]["location"] == f"/v1/runs/{accepted['body']['id']}"
    assert accepted["headers"]["preference-applied"] == "wait=30"
    refused = await page.evaluate(ASK, [api.url, "rs_nobody", {}])
    assert refused["status"] == 401
    assert refused["headers"]["x-request-id"] == refused["body"]["error"]["request_id"]


async def test_a_page_of_another_origin_is_told_nothing(stack: Stack, api: Api, page: Page, app_origin: str) -> None:
    await page.goto(f"{app_origin.replace('app.test', 'other.test')}/healthz")
    assert await page.evaluate(ASK, [api.url, stack.key, {}]) == {"refused": "TypeError"}


def preflight(url: str, origin: str, method: str = "POST", headers: str = "authorization") -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return httpx.options(f"{url}/v1/runs/run_x/cancel", headers=asked, timeout=DEADLINE)


def test_leave_is_given_without_a_key_for_what_a_client_sends(api: Api, app_origin: str) -> None:
    wanted = "authorization,content-type,idempotency-key,last-event-id,prefer"
    for method in ("GET", "POST", "DELETE"):
        answer = preflight(api.url, app_origin, method, wanted)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == app_origin
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers["vary"]
    exposed = httpx.get(f"{api.url}/v1/runs", headers={"Origin": app_origin}, timeout=DEADLINE).headers
    assert {"RateLimit", "RateLimit-Policy", "Retry-After", "Location", "X-Request-Id"} <= set(
        exposed["access-control-expose-headers"].split(", ")
    )


@pytest.mark.parametrize(
    ("origin", "headers"),
    [
        ("http://app.test", "authorization"),
        ("https://evil.test", "authorization"),
        ("null", "authorization"),
        ("", "x"),
    ],
)
def test_leave_is_refused_to_other_origins(api: Api, origin: str, headers: str) -> None:
    answer = preflight(api.url, origin, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"
    assert "access-control-allow-origin" not in answer.headers


def test_no_origin_is_given_leave_where_none_is_listed(stack: Stack, app_origin: str) -> None:
    refused = preflight(stack.url, app_origin)
    answered = httpx.get(f"{stack.url}/healthz", headers={"Origin": app_origin}, timeout=DEADLINE)
    assert refused.status_code == 405
    assert not [name for name in [*refused.headers, *answered.headers] if name.startswith("access-control")]
