"""What the Messages protocol is asked, and how a model's own ways are learned; its events are held in unit tests."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from raw_server import Answer, RawServer, answer, events, generate, raw_server, refusal
from runstream.domain.errors import ProviderProtocolError, ProviderRateLimited, ProviderRefused, ProviderUnavailable
from runstream.domain.prompt import Prompt
from runstream.domain.usage import Usage
from runstream.providers.anthropic_messages import AnthropicMessages
from runstream.providers.base import Call, Finished, ProviderConfig

USAGE = {"input_tokens": 5, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 7, "output_tokens": 1}
HEAD = {"type": "message_start", "message": {"model": "claude-x-1", "usage": USAGE}}
BEGIN = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
HELLO = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}
FINISH = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}
STOP = {"type": "message_stop"}
OK = answer(events(HEAD, BEGIN, HELLO, FINISH, STOP))
TOOLS = [{"type": "function", "function": {"name": "look"}}]


def asked(*messages: Mapping[str, Any], model: str = "m", **fields: Any) -> Call:
    return Call(model, Prompt(messages or [{"role": "user", "content": "Tell me something."}], **fields))


@asynccontextmanager
async def serving(
    *answers: Answer, keys: tuple[str, ...] = ("k",)
) -> AsyncIterator[tuple[RawServer, AnthropicMessages]]:
    async with raw_server(*answers) as raw:
        provider = AnthropicMessages(ProviderConfig("local", "anthropic", raw.url, keys))
        try:
            yield raw, provider
        finally:
            await provider.aclose()


async def body_of(call: Call) -> dict[str, Any]:
    async with serving(OK) as (raw, provider):
        await generate(provider, call)
    return raw.requests[0].body


def refused(message: str, status: int = 400, kind: str = "invalid_request_error") -> bytes:
    return refusal(status, {"type": "error", "error": {"type": kind, "message": message}})


async def test_an_answer_is_understood() -> None:
    async with serving(OK) as (_, provider):
        assert await generate(provider, asked()) == ("Hello", Finished("stop", Usage(42, 2, 30), "claude-x-1"))


async def test_an_answer_that_came_all_at_once_is_understood() -> None:
    content = [{"type": "text", "text": "Hello"}]
    whole = {"type": "message", "model": "claude-x-1", "content": content, "stop_reason": "end_turn", "usage": USAGE}
    async with serving(refusal(200, whole)) as (_, provider):
        assert await generate(provider, asked()) == ("Hello", Finished("stop", Usage(42, 1, 30), "claude-x-1"))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, ProviderUnavailable),
        ({"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down"}}, ProviderRateLimited),
        ({"type": "error", "error": {"type": "invalid_request_error", "message": "No"}}, ProviderRefused),
        ({"nonsense": True}, ProviderProtocolError),
        ([], ProviderProtocolError),
    ],
)
async def test_an_error_under_status_200_is_told_before_the_call_counts_as_opened(body: Any, kind: Any) -> None:
    async with serving(refusal(200, body)) as (_, provider):
        with pytest.raises(kind):
            await generate(provider, asked())


async def test_an_overload_is_told_with_its_message_and_the_time_to_wait() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_1"}
    async with serving(refusal(529, error, "Retry-After: 7")) as (_, provider):
        with pytest.raises(ProviderUnavailable) as failed:
            await generate(provider, asked())
    assert failed.value.message == "The provider answered 529: Overloaded"
    assert failed.value.retry_after == 7


async def test_the_call_is_written_in_the_protocols_words() -> None:
    call = asked(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Grüße 🙂"},
        temperature=0.5,
        max_output_tokens=20,
        stop=["END"],
        tools=TOOLS,
        tool_choice="required",
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    )
    async with serving(OK) as (raw, provider):
        await generate(provider, call)
    head = raw.requests[0].head
    assert head.startswith("POST /v1/messages HTTP/1.1\r\n")
    assert "\r\nx-api-key: k\r\n" in head.lower()
    assert "\r\nanthropic-version: 2023-06-01\r\n" in head.lower()
    assert "authorization" not in head.lower()
    assert raw.requests[0].body == {
        "model": "m",
        "max_tokens": 20,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Grüße 🙂"}]}],
        "stream": True,
        "system": "Be brief.",
        "temperature": 0.5,
        "stop_sequences": ["END"],
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any"},
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    }


async def test_what_is_not_asked_is_not_sent_but_for_the_limit_that_must_be() -> None:
    assert await body_of(asked({"role": "user", "content": "a"})) == {
        "model": "m",
        "max_tokens": 32_000,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        "stream": True,
    }


@pytest.mark.parametrize(("given", "sent"), [(0, 0), (0.3, 0.3), (1, 1), (1.7, 1)])
async def test_a_temperature_above_1_is_taken_for_1(given: float, sent: float) -> None:
    assert (await body_of(asked(temperature=given)))["temperature"] == sent


@pytest.mark.parametrize(("asked_for", "effort"), [("minimal", "low"), ("low", "low"), ("high", "high")])
async def test_effort_is_asked_for_with_thoughts_that_can_be_shown_and_no_temperature(
    asked_for: str, effort: str
) -> None:
    body = await body_of(asked(reasoning_effort=asked_for, temperature=0.5))
    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert body["output_config"] == {"effort": effort}
    assert "temperature" not in body


async def test_what_the_protocol_has_no_form_for_is_refused_without_a_call() -> None:
    async with serving(OK) as (raw, provider):
        with pytest.raises(ProviderRefused, match="input_audio"):
            await generate(provider, asked({"role": "user", "content": [{"type": "input_audio"}]}))
    assert raw.requests == []


@pytest.mark.parametrize(
    "message",
    [
        "adaptive thinking is not supported on this model",
        "This model does not support the effort parameter.",
        "thinking: Input tag 'adaptive' found using 'type' does not match any of the expected tags: 'enabled'",
    ],
)
async def test_a_model_that_has_a_budget_for_its_thoughts_is_learned(message: str) -> None:
    async with serving(refused(message), OK, OK, refused("No."), OK) as (raw, provider):
        for _ in range(2):
            await generate(provider, asked(reasoning_effort="medium"))
        with pytest.raises(ProviderRefused):
            await generate(provider, asked(reasoning_effort="medium", model="other"))
    thoughts = [request.body.get("thinking") for request in raw.requests]
    adaptive = {"type": "adaptive", "display": "summarized"}
    budget = {"type": "enabled", "budget_tokens": 8000}
    assert thoughts == [adaptive, budget, budget, adaptive]
    assert "output_config" not in raw.requests[1].body


@pytest.mark.parametrize(
    ("fields", "budget"),
    [
        ({"reasoning_effort": "minimal"}, 1024),
        ({"reasoning_effort": "low"}, 4000),
        ({"reasoning_effort": "high"}, 16_000),
        ({"reasoning_effort": "high", "max_output_tokens": 1025}, 1024),
        ({"reasoning_effort": "high", "max_output_tokens": 1024}, None),
        ({"reasoning_effort": "high", "tools": TOOLS, "tool_choice": "auto"}, 16_000),
        ({"reasoning_effort": "high", "tools": TOOLS, "tool_choice": "none"}, 16_000),
        ({"reasoning_effort": "high", "tools": TOOLS, "tool_choice": "required"}, None),
        (
            {"reasoning_effort": "high", "tool_choice": {"type": "function", "function": {"name": "look"}}},
            None,
        ),
    ],
)
async def test_a_budget_is_a_share_of_the_limit_where_there_may_be_one(fields: Any, budget: int | None) -> None:
    async with serving(refused("adaptive thinking is not supported"), OK) as (raw, provider):
        await generate(provider, asked(**fields))
    assert raw.requests[1].body.get("thinking", {}).get("budget_tokens") == budget


@pytest.mark.parametrize("more", [[], [{"role": "user", "content": "Well?"}]], ids=["alone", "and a word with it"])
async def test_there_is_no_budget_on_the_way_from_a_tools_result(more: list[dict[str, str]]) -> None:
    called = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c", "content": "Seen."},
    ]
    async with serving(refused("adaptive thinking is not supported"), OK) as (raw, provider):
        await generate(provider, asked(*messages, *more, reasoning_effort="high", temperature=0.5))
    assert "thinking" not in raw.requests[1].body
    assert raw.requests[1].body["temperature"] == 0.5


async def test_a_budget_comes_back_once_the_answer_has_come() -> None:
    called = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c", "content": "Seen."},
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": "Well?"},
    ]
    async with serving(refused("adaptive thinking is not supported"), OK) as (raw, provider):
        await generate(provider, asked(*messages, reasoning_effort="high"))
    assert raw.requests[1].body["thinking"]["budget_tokens"] == 16_000


async def test_a_model_that_takes_no_temperature_is_learned() -> None:
    deprecated = refused("`temperature` is deprecated for this model.")
    async with serving(deprecated, OK) as (raw, provider):
        for _ in range(2):
            assert (await generate(provider, asked(temperature=0.5)))[0] == "Hello"
    assert ["temperature" in request.body for request in raw.requests] == [True, False, False]


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("max_tokens: 32000 > 8192, which is the maximum", {"reasoning_effort": "low"}),
        ("temperature: range: 0..1", {"temperature": 0.5}),
        ("`temperature` is deprecated for this model.", {}),
        ("This model does not support the effort parameter.", {}),
        (
            'tool_choice: type "tool" and "any" are not supported for this model.',
            {"tools": TOOLS, "tool_choice": "required"},
        ),
        ("This model does not support images.", {"temperature": 0.5, "reasoning_effort": "low"}),
    ],
)
async def test_a_refusal_that_teaches_nothing_is_told_at_once(message: str, fields: Any) -> None:
    async with serving(refused(message)) as (raw, provider):
        with pytest.raises(ProviderRefused):
            await generate(provider, asked(**fields))
    assert len(raw.requests) == 1


async def test_a_refusal_shows_neither_the_key_nor_the_prompt() -> None:
    key = "sk-ant-api03-Abc123-456_xyz"
    error = refused(f"invalid x-api-key {key} for 'My secret diary, page one'", 401, "authentication_error")
    async with serving(error, keys=(key,)) as (_, provider):
        with pytest.raises(ProviderRefused) as failed:
            await generate(provider, asked({"role": "user", "content": "My secret diary, page one"}))
    assert failed.value.message == "The provider answered 401: invalid x-api-key [key] for '[prompt]'"


async def test_keys_take_turns_and_the_version_is_sent_without_one_too() -> None:
    async with serving(OK, keys=("first", "second")) as (raw, provider):
        for _ in range(3):
            await generate(provider, asked())
    lines = [line.lower() for request in raw.requests for line in request.head.split("\r\n")]
    assert [line for line in lines if line.startswith("x-api-key")] == [
        f"x-api-key: {key}" for key in ("first", "second", "first")
    ]
    async with serving(OK, keys=()) as (raw, provider):
        await generate(provider, asked())
    assert "x-api-key" not in raw.requests[0].head.lower()
    assert "anthropic-version" in raw.requests[0].head.lower()


async def test_models_are_listed_in_one_page() -> None:
    listed = {"data": [{"type": "model", "id": "claude-x-1", "display_name": "X"}], "has_more": False}
    async with serving(refusal(200, listed)) as (raw, provider):
        assert await provider.models() == ["claude-x-1"]
    assert raw.requests[0].head.startswith("GET /v1/models?limit=1000 HTTP/1.1\r\n")
