"""Each protocol against servers that others wrote: what we take it to be may not rest on our own simulator alone."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace

import pytest
from llmock.simulation import estimate_tokens

from foreign import Foreign, aimock, llmock
from runstream.domain.errors import (
    ProviderError,
    ProviderProtocolError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from runstream.domain.prompt import Prompt
from runstream.providers.base import (
    Call,
    Finished,
    Opened,
    Piece,
    Provider,
    ProviderConfig,
    ReasoningDelta,
    TextDelta,
    Timeouts,
    ToolCallDelta,
)
from runstream.providers.registry import build

WITHOUT_STOP = {"openai-responses"}
MODEL = "m-1"
PATIENT = Timeouts(connect=10, first_token=20, idle=20, total=30)
TEXT = "The “quick” brown fox\njumps  over the naïve 🙂 dog, and \\ that is the whole of it."
BEGINNING = "The “quick” "
USER = {"role": "user", "content": "Tell me something."}
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"where": {"type": "string"}}}},
}
SERVERS = {"aimock": aimock, "llmock": llmock}
TOKENS = {"aimock": len(TEXT), "llmock": estimate_tokens(TEXT)}
"""What each reports of TEXT."""
THOUGHTS = {"aimock": {"reasoning": "Let me think.\nWell."}, "llmock": {}}
"""The latter has no reasoning."""


@pytest.fixture(scope="module", params=sorted(SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[Foreign]:
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture
def foreign(server: Foreign) -> Foreign:
    server.reset()
    return server


@pytest.fixture(params=sorted(Foreign.KINDS))
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def provider(protocol: str, foreign: Foreign) -> AsyncIterator[Provider]:
    provider = build(ProviderConfig("foreign", protocol, foreign.base_url(protocol), ("some-key",)))
    yield provider
    await provider.aclose()


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
        async with asyncio.timeout(20), provider.stream(Call(MODEL, prompt or Prompt([USER])), timeouts) as pieces:
            async for piece in pieces:
                heard.pieces.append(piece)
    except ProviderError as error:
        heard.error = error
    return heard


async def test_an_answer_comes_whole_and_counted(provider: Provider, foreign: Foreign) -> None:
    foreign.will(MODEL, foreign.reply(TEXT))
    heard = await hear(provider)
    assert isinstance(heard.pieces[0], Opened)
    assert heard.text == TEXT
    assert (heard.finished.reason, heard.finished.model) == ("stop", MODEL)
    assert heard.finished.usage is not None
    assert heard.finished.usage.output_tokens == TOKENS[foreign.name]
    assert heard.finished.usage.input_tokens > 0


async def test_the_reason_is_told_in_one_way(protocol: str, provider: Provider, foreign: Foreign) -> None:
    for reason in ["length", "content_filter"][: 1 if protocol == "openai-responses" else 2]:
        foreign.reset()
        foreign.will(MODEL, foreign.reply(TEXT, finish_reason=reason))
        assert (await hear(provider)).finished.reason == reason


async def test_tool_calls_come_whole(provider: Provider, foreign: Foreign) -> None:
    asked = [{"name": "look", "arguments": {"where": "under the naïve 🙂 dog"}}, {"name": "look", "arguments": {}}]
    foreign.will(MODEL, foreign.calls("Let me see.", asked))
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
    foreign.will(MODEL, foreign.reply(TEXT))
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
    foreign.will(MODEL, foreign.refusal(status, "Not now, dear."), foreign.reply(TEXT))
    heard = await hear(provider)
    assert heard.pieces == []
    assert type(heard.error) is kind
    assert heard.error.message == f"The provider answered {status}: Not now, dear."
    assert (await hear(provider)).finished.reason == "stop"


async def test_a_rate_limit_carries_the_time_to_wait(provider: Provider, foreign: Foreign) -> None:
    foreign.will(MODEL, foreign.refusal(429, "Not now, dear.", retry_after=3))
    heard = await hear(provider)
    assert heard.error is not None
    assert heard.error.retry_after == 3


BREAKS = {
    "aimock": {
        "disconnect": (ProviderProtocolError, "broke off", BEGINNING),
        "malformed": (ProviderProtocolError, "not JSON", ""),
        "stall": (ProviderTimeout, "within 1 s|silent for 0.5 s", ""),
        "drop": (ProviderUnavailable, "answered 500", ""),
        "vanish": (ProviderUnavailable, "closed the connection before it answered", ""),
    },
    "llmock": {
        "disconnect": (ProviderProtocolError, "broke off", BEGINNING),
        "truncate": (ProviderProtocolError, "without a finish reason", BEGINNING),
        "malformed": (ProviderProtocolError, "not JSON", BEGINNING),
        "stall": (ProviderTimeout, "silent for 0.5 s", BEGINNING),
    },
}
"""What each server can do to a stream: the error, and what came before it."""


async def test_a_stream_that_breaks_gives_the_text_before_it_and_then_the_error(
    provider: Provider, foreign: Foreign
) -> None:
    for fault, (kind, message, before) in BREAKS[foreign.name].items():
        foreign.reset()
        foreign.will(MODEL, foreign.broken(TEXT, fault, after=7))
        heard = await hear(provider, timeouts=replace(PATIENT, first_token=1, idle=0.5))
        assert TEXT.startswith(heard.text)
        assert before in heard.text
        assert len(heard.text) < len(TEXT)
        assert type(heard.error) is kind
        assert re.search(message, heard.error.message)


async def test_reasoning_is_told_apart_from_the_text(foreign: Foreign, provider: Provider) -> None:
    foreign.will(MODEL, foreign.reply(TEXT, **THOUGHTS[foreign.name]))
    heard = await hear(provider)
    thought = "".join(piece.text for piece in heard.pieces if isinstance(piece, ReasoningDelta))
    assert (thought, heard.text) == (THOUGHTS[foreign.name].get("reasoning", ""), TEXT)


async def test_a_first_token_that_is_late_is_told(provider: Provider, foreign: Foreign) -> None:
    foreign.will(MODEL, foreign.late(TEXT))
    heard = await hear(provider, timeouts=replace(PATIENT, first_token=0.5))
    assert isinstance(heard.error, ProviderTimeout)
    assert "No first token" in heard.error.message


async def test_models_are_listed(provider: Provider, foreign: Foreign) -> None:
    foreign.will(MODEL, foreign.reply(TEXT))
    assert await provider.models()
