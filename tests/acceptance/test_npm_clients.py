"""The clients that people already use read a run from its start to its end, though their connection is cut."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from httpx_sse import aconnect_sse

from caller import words

DEADLINE = 60
CLIENTS = Path(__file__).with_name("clients")
TERMINAL = {"run.completed", "run.failed", "run.cancelled"}
LENGTH = 120
TEXT = words(LENGTH)


async def start_run(api: httpx.AsyncClient) -> str:
    """A run of about five seconds that says TEXT: a client takes one to start."""
    prompt = {"messages": [{"role": "user", "content": "Count"}]}
    answer = await api.post("/v1/runs", json={"feature": "chat", "model": f"sim:{LENGTH}:25", "input": prompt})
    return answer.raise_for_status().json()["id"]


@asynccontextmanager
async def running(*command: str, key: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {**os.environ, "RUNSTREAM_KEY": key}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def text_of(events: list[dict]) -> str:
    return "".join(event["data"]["text"] for event in events if event["type"] == "run.delta")


def assert_whole(events: list[dict]) -> None:
    assert [event["type"] for event in events if event["type"] != "run.delta"] == ["run.started", "run.completed"]
    assert text_of(events) == TEXT
    assert len({event["id"] for event in events}) == len(events)


@pytest.mark.promise("P2")
@pytest.mark.parametrize("client", ["runstream", "npm-eventsource", "npm-fetch-event-source"])
async def test_a_javascript_client_reads_a_run_across_cuts(client, stack, api, network, npm_packages):
    run_id = await start_run(api)
    events: list[dict] = []
    command = ("node", str(CLIENTS / f"{client}.mjs"), network.url, run_id, str(npm_packages))
    cuts = 0
    async with asyncio.timeout(DEADLINE), running(*command, key=stack.key) as process:
        async for line in process.stdout:
            events.append(json.loads(line))
            if cuts < 2 and len(text_of(events[:-1])) >= 100 * (cuts + 1):
                network.cut()
                cuts += 1
        assert await process.wait() == 0
    if client == "npm-eventsource":
        assert events.pop() == {"closedBy": 204}
    assert cuts == 2
    assert network.connections >= 3
    assert_whole(events)


@pytest.mark.promise("P2")
async def test_httpx_sse_reads_a_run_across_cuts(stack, api, network):
    run_id = await start_run(api)
    events: list[dict] = []
    headers = {"Authorization": f"Bearer {stack.key}"}
    cuts = 0
    async with (
        asyncio.timeout(DEADLINE),
        httpx.AsyncClient(base_url=network.url, headers=headers, timeout=DEADLINE) as client,
    ):
        while not events or events[-1]["type"] not in TERMINAL:
            try:
                async for event in _events(client, run_id, after=events[-1]["id"] if events else None):
                    events.append(event)
                    if cuts < 2 and len(text_of(events)) >= 100 * (cuts + 1):
                        network.cut()
                        cuts += 1
            except httpx.TransportError:
                continue
    assert cuts == 2
    assert_whole(events)


async def _events(client: httpx.AsyncClient, run_id: str, after: str | None) -> AsyncIterator[dict]:
    headers = {"Last-Event-ID": after} if after else {}
    async with aconnect_sse(client, "GET", f"/v1/runs/{run_id}/events", headers=headers) as source:
        async for event in source.aiter_sse():
            if event.data:
                yield {"id": event.id, "type": event.event, "data": event.json()}


async def test_the_javascript_client_passes_its_own_tests(node):
    tests = [str(path) for path in sorted(CLIENTS.glob("*.test.mjs"))]
    assert tests
    command = (node, "--test", f"--test-timeout={DEADLINE // 4 * 1000}", *tests)
    async with asyncio.timeout(DEADLINE), running(*command, key="") as process:
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
