"""The playground in a real browser, against the real system."""

from __future__ import annotations

import asyncio
import json
import re
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.async_api import BrowserContext, Page, Route, expect

from caller import words

DEADLINE = 30
expect.set_options(timeout=DEADLINE * 1000)


class Playground:
    """The page as a person uses it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.prompt = page.get_by_label("Prompt")
        self.model = page.get_by_label("Model")
        self.output = page.get_by_role("region", name="Output")
        self.status = page.locator("#status")
        self.connection = page.locator("#connection")
        self.cancel = page.get_by_role("button", name="Cancel")
        self.past_runs = page.get_by_role("complementary", name="Past runs").get_by_role("link")
        self.restart = page.locator("#restart")
        self.error = page.locator("#error")
        self.reasoning = page.locator("#reasoning-text")
        self.tool_calls = page.get_by_role("list", name="Tool calls").get_by_role("listitem")

    async def open(self, url: str) -> None:
        await self.page.goto(url)
        await expect(self.prompt).to_be_editable()

    async def send(self, prompt: str, model: str) -> str:
        """Send, and return the run's id when the page shows the run."""
        before = self.page.url
        await self.model.fill(model)
        await self.prompt.fill(prompt)
        await self.page.get_by_role("button", name="Send").click()
        await expect(self.page).not_to_have_url(before)
        return self.run_id

    @property
    def run_id(self) -> str:
        return parse_qs(urlsplit(self.page.url).query)["run"][0]

    async def has_status(self, status: str) -> None:
        await expect(self.status).to_have_text(status)

    async def shows(self, word: int) -> None:
        await expect(self.output).to_contain_text(re.compile(rf"\bw{word}\b"))

    async def text(self) -> str:
        return await self.output.text_content() or ""


@pytest.fixture
async def playground(context: BrowserContext) -> Playground:
    return Playground(await context.new_page())


async def run_of(api: httpx.AsyncClient, run_id: str) -> dict:
    return (await api.get(f"/v1/runs/{run_id}")).raise_for_status().json()


async def create(api: httpx.AsyncClient, model: str, title: str) -> str:
    body = {
        "feature": "chat",
        "model": model,
        "input": {"messages": [{"role": "user", "content": title}]},
        "metadata": {"title": title},
    }
    return (await api.post("/v1/runs", json=body)).raise_for_status().json()["id"]


async def ended(api: httpx.AsyncClient, run_id: str) -> dict:
    run = (await api.get(f"/v1/runs/{run_id}", params={"wait": DEADLINE // 2})).raise_for_status().json()
    assert run["status"] in {"completed", "failed", "cancelled"}
    return run


async def test_a_prompt_streams_to_its_end(stack, api, playground):
    await playground.open(stack.url)
    run_id = await playground.send("Count", "sim:200:50")
    await playground.shows(5)
    await playground.has_status("Running")
    await expect(playground.connection).to_have_text("Live")
    await playground.has_status("Completed")
    assert await playground.text() == words(200) == (await run_of(api, run_id))["output"]["text"]
    await expect(playground.connection).to_be_hidden()
    await expect(playground.page.locator("#size")).to_have_text("200 tokens")
    await expect(playground.page.locator("#first-token")).to_contain_text(re.compile(r"^[\d.]+ m?s$"))


@pytest.mark.promise("P2")
async def test_a_refresh_in_the_middle_loses_and_repeats_nothing(stack, api, playground):
    await playground.open(stack.url)
    run_id = await playground.send("Count", "sim:300:50")
    for word in (10, 60):
        await playground.shows(word)
        await playground.page.reload()
    await playground.shows(61)
    await playground.has_status("Running")
    await playground.has_status("Completed")
    assert await playground.text() == words(300) == (await run_of(api, run_id))["output"]["text"]


async def test_an_ended_run_can_be_opened_again(stack, playground):
    await playground.open(stack.url)
    await playground.send("Count", "sim:30")
    await playground.has_status("Completed")
    await playground.page.reload()
    await playground.has_status("Completed")
    assert await playground.text() == words(30)
    await expect(playground.cancel).to_be_hidden()


@pytest.mark.promise("P2")
async def test_reasoning_is_shown_apart_while_it_comes_and_whole_after_a_refresh(stack, api, playground):
    await playground.open(stack.url)
    run_id = await playground.send("Think", "reasoning:100:100:50")
    await expect(playground.reasoning).to_be_visible()
    await expect(playground.reasoning).to_contain_text("r20 ")
    await playground.page.reload()
    await expect(playground.reasoning).to_contain_text("r40 ")
    await playground.shows(5)
    await expect(playground.reasoning).to_be_hidden()
    await playground.has_status("Completed")
    output = (await run_of(api, run_id))["output"]
    assert await playground.text() == words(100) == output["text"]
    assert await playground.reasoning.text_content() == output["reasoning"]
    await playground.page.locator("#reasoning summary").click()
    await expect(playground.reasoning).to_be_visible()


@pytest.mark.promise("P2")
async def test_tool_calls_are_shown_as_they_come_and_readable_in_the_end(stack, api, playground):
    await playground.open(stack.url)
    run_id = await playground.send("Call", "tools:60:5:40")
    await expect(playground.tool_calls.first).to_contain_text("look_up")
    await expect(playground.tool_calls.first).to_contain_text("w10 ")
    await playground.page.reload()
    await expect(playground.tool_calls.nth(1)).to_contain_text("write_down")
    await playground.has_status("Completed")
    assert await playground.text() == words(5)
    calls = (await run_of(api, run_id))["output"]["tool_calls"]
    for number, call in enumerate(calls):
        pretty = json.dumps(json.loads(call["function"]["arguments"]), indent=2)
        shown = await playground.tool_calls.nth(number).text_content()
        assert shown == call["function"]["name"] + pretty
    await playground.page.reload()
    await playground.has_status("Completed")
    await expect(playground.tool_calls).to_have_count(2)
    await playground.send("Count", "sim:3")
    await playground.has_status("Completed")
    await expect(playground.tool_calls).to_have_count(0)


@pytest.mark.promise("P2")
async def test_the_text_completes_itself_after_the_network_was_gone(network, api, playground, context):
    await playground.open(network.url)
    run_id = await playground.send("Count", "sim:150:50")
    await playground.shows(20)
    network.break_()
    await expect(playground.connection).to_have_text("Reconnecting")
    await context.set_offline(True)
    await expect(playground.connection).to_contain_text("Offline")
    seen = await playground.text()
    await ended(api, run_id)
    assert words(150).startswith(seen)
    assert await playground.text() == seen
    network.mend()
    await context.set_offline(False)
    await playground.has_status("Completed")
    assert await playground.text() == words(150)


@pytest.mark.promise("P2")
async def test_connections_that_are_cut_again_and_again_cost_nothing(network, playground):
    await playground.open(network.url)
    await playground.send("Count", "sim:200:40")
    for word in (10, 40, 80, 120):
        await playground.shows(word)
        network.cut()
        await network.reached_again()
    await playground.has_status("Completed")
    assert await playground.text() == words(200)


@pytest.mark.promise("P2")
async def test_a_second_tab_sees_the_same_run(stack, playground, context):
    await playground.open(stack.url)
    await playground.send("Count", "sim:300:50")
    await playground.shows(30)
    other = Playground(await context.new_page())
    await other.open(playground.page.url)
    await other.has_status("Running")
    for tab in (playground, other):
        await tab.has_status("Completed")
        assert await tab.text() == words(300)


@pytest.mark.promise("P6")
async def test_a_cancel_keeps_the_text_so_far(stack, api, playground):
    await playground.open(stack.url)
    run_id = await playground.send("Count", "sim:2000:50")
    await playground.shows(20)
    await playground.cancel.click()
    await playground.has_status("Cancelled")
    await expect(playground.cancel).to_be_hidden()
    run = await run_of(api, run_id)
    assert run["status"] == "cancelled"
    text = await playground.text()
    assert "w20" in text
    assert words(2000).startswith(text)
    assert run["output"]["text"] == text


async def test_everything_can_be_done_from_the_keyboard(stack, playground):
    await playground.open(stack.url)
    keyboard = playground.page.keyboard
    await expect(playground.prompt).to_be_focused()
    await keyboard.type("Count on and on")
    await keyboard.press("Tab")
    await expect(playground.model).to_be_focused()
    await keyboard.type("sim:2000:50")
    await keyboard.press("Control+Enter")
    await playground.shows(5)
    await keyboard.press("Escape")
    await playground.has_status("Cancelled")

    await playground.model.fill("sim:3")
    await playground.prompt.focus()
    await keyboard.type("Another")
    await keyboard.press("Control+Enter")
    await expect(playground.output).to_have_text(words(3).strip())
    await expect(playground.prompt).to_be_focused()
    first_run = playground.past_runs.filter(has_text="Count on and on").first
    for _ in range(20):
        await keyboard.press("Tab")
        focused = playground.page.locator(":focus")
        if await focused.count():
            await expect(focused).not_to_have_css("outline-style", "none")
        if await first_run.evaluate("link => link === document.activeElement"):
            break
    await keyboard.press("Enter")
    await playground.has_status("Cancelled")
    await expect(first_run).to_have_attribute("aria-current", "page")


async def test_past_runs_are_listed_a_page_at_a_time(stack, api, playground):
    runs = [await create(api, f"sim:{number + 1}", f"Prompt {number}") for number in range(25)]
    await asyncio.gather(*(ended(api, run_id) for run_id in runs))
    await playground.open(stack.url)
    await expect(playground.past_runs).to_have_count(20)
    await playground.page.get_by_role("button", name="Load more").click()
    await expect(playground.past_runs.nth(20)).to_be_focused()
    titles = await playground.past_runs.locator(".title").all_text_contents()
    assert titles[:25] == [f"Prompt {number}" for number in reversed(range(25))]

    await playground.past_runs.nth(24).click()
    await playground.has_status("Completed")
    assert await playground.text() == words(1)
    await playground.past_runs.nth(5).click()
    await expect(playground.page.get_by_role("heading", level=1)).to_have_text("Prompt 19")
    await playground.page.go_back()
    await expect(playground.page.get_by_role("heading", level=1)).to_have_text("Prompt 0")


async def test_a_failed_run_says_why(stack, api, playground):
    await playground.open(stack.url)
    run_id = await playground.send("Break", "error:5")
    await playground.has_status("Failed")
    run = await run_of(api, run_id)
    await expect(playground.error).to_have_text(run["error"]["message"])
    await expect(playground.restart).to_contain_text(f"attempt {run['attempt']}")
    assert await playground.text() == run["output"]["text"] == words(5)


@pytest.mark.promise("P5")
async def test_a_run_that_begins_again_says_so(make_stack, playground):
    stack = make_stack(lease="1", lease_interval="0.25")
    await playground.open(stack.url)
    await playground.send("Count", "sim:150:40")
    await playground.shows(30)
    stack.kill(stack.workers[0])
    stack.start_worker()
    await expect(playground.restart).to_contain_text("Began again, attempt 2 (worker lost).")
    await playground.has_status("Completed")
    assert await playground.text() == words(150)
    await playground.page.reload()
    await playground.has_status("Completed")
    await expect(playground.restart).to_contain_text("Began again, attempt 2 (worker lost).")
    assert await playground.text() == words(150)


async def test_a_refused_prompt_stays_in_the_field(stack, playground):
    await playground.open(stack.url)
    await playground.model.fill("x" * 5000)
    await playground.prompt.fill("Keep me")
    await playground.page.keyboard.press("Control+Enter")
    await expect(playground.page.get_by_role("alert").filter(has_text=re.compile("model"))).to_be_visible()
    await expect(playground.prompt).to_have_value("Keep me")


@pytest.mark.promise("P4")
async def test_a_prompt_whose_answer_was_lost_makes_one_run(stack, api, playground, context):
    async def lose_the_answer(route: Route) -> None:
        if route.request.method != "POST":
            await route.continue_()
            return
        await route.fetch()
        await route.abort()
        lost.set()

    lost = asyncio.Event()
    await playground.open(stack.url)
    await context.route("**/v1/runs", lose_the_answer)
    await playground.model.fill("sim:30")
    await playground.prompt.fill("Answer lost")
    await playground.page.keyboard.press("Control+Enter")
    async with asyncio.timeout(DEADLINE):
        await lost.wait()
    await context.unroute("**/v1/runs", lose_the_answer)
    await playground.page.reload()
    await playground.has_status("Completed")
    assert await playground.text() == words(30)
    runs = (await api.get("/v1/runs")).json()["data"]
    assert [run["id"] for run in runs if run["metadata"]["title"] == "Answer lost"] == [playground.run_id]


async def test_what_a_model_says_is_text_whatever_it_looks_like(stack, playground):
    markup = "<img src=x onerror=document.title='owned'><b>bold</b>"
    await playground.open(stack.url)
    await playground.send(markup, "demo")
    await expect(playground.output).to_contain_text(markup)
    await expect(playground.page.get_by_role("heading", level=1)).to_have_text(markup)
    assert await playground.page.locator("main :is(img, b)").count() == 0


async def test_a_key_is_asked_for_where_none_is_given_and_kept_out_of_addresses(stack, playground):
    addresses: list[str] = []
    playground.page.on("request", lambda request: addresses.append(request.url))
    await playground.page.goto(f"http://runstream.test:{urlsplit(stack.url).port}/")
    dialog = playground.page.get_by_role("dialog", name="Enter a key")
    await dialog.get_by_label("Key").fill("rs_wrong")
    await playground.page.keyboard.press("Enter")
    await expect(dialog.get_by_role("alert")).to_have_text(re.compile(r"\w+"))
    await dialog.get_by_label("Key").fill(stack.key)
    await playground.page.keyboard.press("Enter")
    await expect(dialog).to_be_hidden()
    await playground.send("Count", "sim:30")
    await playground.has_status("Completed")
    await playground.page.reload()
    await playground.has_status("Completed")
    assert await playground.text() == words(30)
    assert not [address for address in addresses if stack.key in address]
    assert {urlsplit(address).hostname for address in addresses} == {"runstream.test"}


async def test_the_page_forbids_foreign_resources_and_frames(api):
    page = await api.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "camera=()" in page.headers["permissions-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert (await api.get("/console/runstream.js")).headers["content-type"].startswith("text/javascript")
    assert (await api.get("/console/package.json")).status_code == 404


@pytest.mark.parametrize(
    ("headers", "given"),
    [
        ({}, True),
        ({"Host": "localhost:8000"}, True),
        ({"Host": "[::1]:8000"}, True),
        ({"Host": "runs.localhost"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Host": "rebound.example"}, False),
        ({"Host": "127.0.0.1.example:8000"}, False),
        ({"Host": "192.168.1.5:8000"}, False),
        ({"X-Forwarded-For": "192.168.1.5"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
    ],
)
async def test_only_a_page_of_this_machine_is_given_the_key(stack, headers, given):
    async with httpx.AsyncClient(base_url=stack.url, timeout=DEADLINE) as client:
        answer = await client.get("/console.json", headers=headers)
    assert answer.json()["key"] == (stack.key if given else None)
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers
