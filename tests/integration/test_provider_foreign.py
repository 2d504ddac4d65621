"""Each protocol against a server that others wrote: what we take it to be may not rest on our own simulator alone."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from llmock.simulation import estimate_tokens

from runstream.domain.errors import (
    ProviderError,
    ProviderProtocolError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from runstream.domain.prompt import Prompt
from runstream.embedded.port import free_port
from runstream.providers.base import (
    Call,
    Finished,
    Opened,
    Piece,
    Provider,
    ProviderConfig,
    TextDelta,
    Timeouts,
    ToolCallDelta,
)
from runstream.providers.registry import build

PATHS = {"anthropic": "/anthropic/v1", "openai": "/v1", "openai-responses": "/v1"}
WITHOUT_STOP = {"openai-responses"}
PATIENT = Timeouts(connect=10, first_token=20, idle=20, total=30)
TEXT = "The “quick” brown fox\njumps  over the naïve 🙂 dog, and \\ that is the whole of it."
BEGINNING = "The “quick” "
USER = {"role": "user", "content": "Tell me something."}
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"where": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("llmock")), "serve", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        transport = httpx.HTTPTransport(retries=12)  # half a second, doubled each time
        with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            client.get("/health").raise_for_status()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=sorted(PATHS))
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def provider(protocol: str, server: str) -> AsyncIterator[Provider]:
    provider = build(ProviderConfig("foreign", protocol, server + PATHS[protocol], ("some-key",)))
    yield provider
    await provider.aclose()


@dataclass
class Foreign:
    """What the server is told to do with the calls to come, in order."""

    client: httpx.AsyncClient

    async def will(self, what: str, **fields: Any) -> None:
        answer = await self.client.post("/_llmock/scenario", json={"behaviors": [{"type": what, **fields}]})
        answer.raise_for_status()


@pytest.fixture
async def foreign(server: str) -> AsyncIterator[Foreign]:
    async with httpx.AsyncClient(base_url=server, trust_env=False) as client:
        (await client.post("/_llmock/reset")).raise_for_status()
        yield Foreign(client)


@dataclass
class Heard:
    pieces: list[Piece] = field(default_factory=list)
    error: ProviderError | None = None

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces if isinstance(piece, TextDelta))

    @property
    def finished(self) -> Finished:
        assert self.error is None
        assert isinstance(self.pieces[-1], Finished)
        return self.pieces[-1]


async def hear(provider: Provider, prompt: Prompt | None = None, timeouts: Timeouts = PATIENT) -> Heard:
    heard = Heard()
    try:
        async with asyncio.timeout(20), provider.stream(Call("m-1", prompt or Prompt([USER])), timeouts) as pieces:
            async for piece in pieces:
                heard.pieces.append(piece)
    except ProviderError as error:
        heard.error = error
    return heard


async def test_an_answer_comes_whole_and_counted(provider: Provider, foreign: Foreign) -> None:
    await foreign.will("reply", text=TEXT)
    heard = await hear(provider)
    assert isinstance(heard.pieces[0], Opened)
    assert heard.text == TEXT
    assert (heard.finished.reason, heard.finished.model) == ("stop", "m-1")
    assert heard.finished.usage is not None
    assert heard.finished.usage.output_tokens == estimate_tokens(TEXT)
    assert heard.finished.usage.input_tokens > 0


async def test_an_answer_that_nobody_scripted_comes_too(provider: Provider, foreign: Foreign) -> None:
    heard = await hear(provider)
    assert heard.text
    assert heard.finished.reason == "stop"


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_the_reason_is_told_in_one_way(protocol: str, provider: Provider, foreign: Foreign, reason: str) -> None:
    if (protocol, reason) == ("openai-responses", "content_filter"):
        pytest.skip("This server has no such end in that protocol.")
    await foreign.will("reply", text=TEXT, finish_reason=reason)
    assert (await hear(provider)).finished.reason == reason


async def test_tool_calls_come_whole(provider: Provider, foreign: Foreign) -> None:
    asked = [{"name": "look", "arguments": {"where": "under the naïve 🙂 dog"}}, {"name": "look", "arguments": {}}]
    await foreign.will("reply", text="Let me see.", tool_calls=asked)
    heard = await hear(provider, Prompt([USER], tools=[TOOL], tool_choice="auto"))
    assert heard.text == "Let me see."
    assert heard.finished.reason == "tool_calls"
    calls = [piece for piece in heard.pieces if isinstance(piece, ToolCallDelta)]
    assert [call.name for call in calls if call.name] == ["look", "look"]
    assert len({call.id for call in calls if call.id}) == 2
    arguments = ["".join(call.arguments for call in calls if call.index == index) for index in (0, 1)]
    assert [json.loads(each) for each in arguments] == [each["arguments"] for each in asked]


async def test_a_whole_conversation_is_taken(protocol: str, provider: Provider, foreign: Foreign) -> None:
    called = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"where": "here"}'}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_1", "content": "A dog."},
        {"role": "assistant", "content": "A dog."},
        USER,
    ]
    await foreign.will("reply", text=TEXT)
    stop = None if protocol in WITHOUT_STOP else ["END"]
    prompt = Prompt(messages, tools=[TOOL], temperature=1.5, max_output_tokens=100, stop=stop)
    assert (await hear(provider, prompt)).text == TEXT


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ProviderRefused),
        (401, ProviderRefused),
        (403, ProviderRefused),
        (404, ProviderRefused),
        (422, ProviderRefused),
        (429, ProviderRateLimited),
        (500, ProviderUnavailable),
        (503, ProviderUnavailable),
        (529, ProviderUnavailable),
    ],
)
async def test_a_refusal_is_told_by_its_status_with_its_message(
    provider: Provider, foreign: Foreign, status: int, kind: type[ProviderError]
) -> None:
    await foreign.will("fail", status=status, message="Not now, dear.")
    heard = await hear(provider)
    assert heard.pieces == []
    assert type(heard.error) is kind
    assert heard.error.message == f"The provider answered {status}: Not now, dear."
    assert (await hear(provider)).finished.reason == "stop"


async def test_a_rate_limit_carries_the_time_to_wait(provider: Provider, foreign: Foreign) -> None:
    await foreign.will("fail", status=429, retry_after=2.5)
    heard = await hear(provider)
    assert heard.error is not None
    assert heard.error.retry_after == 2.5


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("disconnect", ProviderProtocolError, "broke off"),
        ("truncate", ProviderProtocolError, "without a finish reason"),
        ("malformed", ProviderProtocolError, "not JSON"),
        ("stall", ProviderTimeout, "silent for 0.5 s"),
    ],
)
async def test_a_stream_that_breaks_gives_the_text_before_it_and_then_the_error(
    provider: Provider, foreign: Foreign, fault: str, kind: type[ProviderError], message: str
) -> None:
    await foreign.will("reply", text=TEXT)
    await foreign.will("stream_fault", kind=fault, after_chunks=6)
    heard = await hear(provider, timeouts=replace(PATIENT, idle=0.5))
    assert TEXT.startswith(heard.text)
    assert BEGINNING in heard.text
    assert len(heard.text) < len(TEXT)
    assert type(heard.error) is kind
    assert message in heard.error.message


async def test_a_first_token_that_is_late_is_told(provider: Provider, foreign: Foreign) -> None:
    await foreign.will("slow_first_token", seconds=30)
    heard = await hear(provider, timeouts=replace(PATIENT, first_token=0.5))
    assert isinstance(heard.error, ProviderTimeout)
    assert "No first token" in heard.error.message


async def test_models_are_listed(provider: Provider, foreign: Foreign) -> None:
    assert len(await provider.models()) > 3
