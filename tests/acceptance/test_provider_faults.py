"""Each way in which a provider fails has one outcome, the same for readers, for the run and for its attempts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar, NamedTuple

import pytest

from caller import Caller, own_model, words
from reliability import MakeStack, reading, rows, user
from runstream.embedded.port import free_port
from stack import MODELS, PROVIDER, PROVIDER_KEY, Stack
from waiting import until

LONGEST_ASKED = 300
"""Seconds that Retry-After is heeded for."""


class Outcome(NamedTuple):
    """Of a run of two attempts; `codes` are its attempts' errors, None for one that had none."""

    status: str
    codes: list[str | None]
    text: str = ""


def fails(code: str, text: str = "") -> Outcome:
    """After another try that went no better."""
    return Outcome("failed", [code, code], text)


def completes(text: str, *before: str) -> Outcome:
    return Outcome("completed", [*before, None], text)


OUTCOMES = {
    "nobody:listens": fails("provider_unavailable"),
    "status:400": Outcome("failed", ["provider_refused"]),
    "status:401": Outcome("failed", ["provider_refused"]),
    "status:429": fails("provider_rate_limited"),
    "status:500": fails("provider_unavailable"),
    "status:503": fails("provider_unavailable"),
    "flaky:1:5": completes(words(5), "provider_unavailable"),
    "limited:1": completes(words(5), "provider_rate_limited"),
    "slow-headers:60000": fails("provider_timeout"),
    "hang:0": fails("provider_timeout"),
    "hang:5": fails("provider_timeout", words(5)),
    "cut:0": fails("provider_protocol_error"),
    "cut:5": fails("provider_protocol_error", words(5)),
    "cut:100:50": fails("provider_protocol_error", words(100)),
    "malformed:5": fails("provider_protocol_error", words(5)),
    "error:0": fails("provider_unavailable"),
    "error:5": fails("provider_unavailable", words(5)),
    "nofinish:5": fails("provider_protocol_error", words(5)),
    "big:1500000": completes("x" * 1_500_000),
    "big:9000000": fails("provider_protocol_error"),
    "sim:100000": completes(words(100_000)),
}
"""What the provider acts out, by the model's name."""


class Limited(BaseHTTPRequestHandler):
    """To `limited:<seconds>` it answers 429, with that many seconds in Retry-After, and all is well the next time."""

    protocol_version = "HTTP/1.1"
    calls: ClassVar[Counter[str]] = Counter()

    def do_POST(self) -> None:
        model = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]
        self.calls[model] += 1
        if self.calls[model] == 1:
            self._answer(429, "application/json", b'{"error": {"message": "slow down"}}', model.partition(":")[2])
        else:
            choices: list[dict[str, Any]] = [{"delta": {"content": words(5)}}, {"delta": {}, "finish_reason": "stop"}]
            chunks = [f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in choices]
            self._answer(200, "text/event-stream", "".join([*chunks, "data: [DONE]\n\n"]).encode())

    def _answer(self, status: int, kind: str, body: bytes, retry_after: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def providers(stack: Stack) -> Iterator[dict[str, str]]:
    """The settings of three providers: the simulated one, one that limits, and one that does not listen."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Limited)
    Thread(target=server.serve_forever, daemon=True).start()
    urls = {
        PROVIDER: stack.provider_url,
        "limiting": f"http://127.0.0.1:{server.server_port}/v1",
        "away": f"http://127.0.0.1:{free_port()}/v1",
    }
    configured = {name: {"kind": "openai", "base_url": url, "api_keys": [PROVIDER_KEY]} for name, url in urls.items()}
    models = {**MODELS, "limited:*": ["limiting/*"], "nobody:*": ["away/*"]}
    yield {"providers": json.dumps(configured), "models": json.dumps(models)}
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def url(stack: Stack, providers: dict[str, str]) -> Iterator[str]:
    """An API process whose runs are given two attempts, and whose worker loses patience soon."""
    api = stack.start_api(queue="faulty", max_attempts="2", **providers)
    worker = stack.start_worker(queue="faulty", idle_timeout="1", first_token_timeout="1.5", **providers)
    yield api.url
    stack.kill(worker)
    stack.kill(api)


@pytest.fixture
async def asking(stack: Stack, url: str) -> AsyncIterator[Caller]:
    async with Caller.of(stack, "acme", "ada", url=url) as caller:
        yield caller


@pytest.mark.promise("P1", "P2", "P5")
@pytest.mark.parametrize("model", OUTCOMES)
async def test_each_fault_of_a_provider_has_its_outcome(stack: Stack, asking: Caller, url: str, model: str) -> None:
    expected = OUTCOMES[model]
    run_id = await asking.create(model)
    async with reading(stack, asking, run_id, url=url) as viewer:
        pass
    run = await asking.ended(run_id)
    assert (run["status"], run["output"]["text"]) == (expected.status, expected.text)
    assert (run["error"] or {"code": None})["code"] == expected.codes[-1]
    assert viewer.text == expected.text
    assert viewer.end
    assert viewer.end[0] == f"run.{expected.status}"
    assert [restart["reason"] for restart in viewer.restarts] == expected.codes[:-1]
    attempts = (await asking.http.get(f"/v1/runs/{run_id}/attempts")).raise_for_status().json()["data"]
    outcomes = ["retried"] * (len(expected.codes) - 1) + [expected.status]
    assert [attempt["outcome"] for attempt in attempts] == outcomes
    assert [(attempt["error"] or {"code": None})["code"] for attempt in attempts] == expected.codes
    assert all(attempt["ended_at"] for attempt in attempts)
    await until(lambda: still_open(stack, model) == 0)


def still_open(stack: Stack, model: str) -> int:
    """The calls for this model that the simulated provider still answers."""
    return sum(call["ending"] == "open" for call in stack.provider_calls(model))


# Waiting for the next attempt


async def test_a_run_that_waits_for_its_next_attempt_holds_no_slot_and_can_be_cancelled(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(worker_slots=1, retry_delays="[10, 30, 60]")
    async with user(stack) as caller:
        model = own_model().replace("sim:5:0", "flaky:1:5")
        waiting = await caller.create(model)

        await until_retried(caller, waiting)
        assert 5 < await wait_of(stack, waiting) <= 10
        assert (await caller.ended(await caller.create("sim:5")))["status"] == "completed"
        assert (await caller.get(waiting))["status"] == "queued"
        assert (await caller.cancel(waiting))["status"] == "cancelled"
        assert await attempts_of(caller, waiting) == ["retried"]


@pytest.mark.parametrize("asked", ["120", "86400", "1e300", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_a_provider_is_waited_for_as_long_as_it_asks_but_not_for_days(
    stack: Stack, asking: Caller, asked: str
) -> None:
    run_id = await asking.create(f"limited:{asked}")
    await until_retried(asking, run_id)
    wait = await wait_of(stack, run_id)
    longest = min(float(asked), LONGEST_ASKED) if asked[0].isdigit() else LONGEST_ASKED
    assert longest - 30 < wait <= longest
    assert (await asking.cancel(run_id))["status"] == "cancelled"


async def until_retried(caller: Caller, run_id: str) -> None:
    async def retried() -> bool:
        return (await attempts_of(caller, run_id)) == ["retried"]

    await until(retried, "the first attempt is over")


async def attempts_of(caller: Caller, run_id: str) -> list[str]:
    answer = await caller.http.get(f"/v1/runs/{run_id}/attempts")
    return [attempt["outcome"] for attempt in answer.raise_for_status().json()["data"]]


async def wait_of(stack: Stack, run_id: str) -> float:
    """Seconds until the run may be taken up."""
    query = "select extract(epoch from available_at - now()) from runs where id = $1 and status = 'queued'"
    return float((await rows(stack, query, run_id))[0][0])
