"""The chat-completions protocol as servers really speak it, and what this one asks of them."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from raw_server import CALL, PATIENT, Answer, RawServer, answer, events, generate, raw_server, refusal
from runstream.domain.errors import (
    ProviderError,
    ProviderProtocolError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderUnavailable,
)
from runstream.domain.prompt import Prompt
from runstream.domain.usage import Usage
from runstream.providers import account
from runstream.providers.base import Call, Finished, ProviderConfig, TextDelta
from runstream.providers.openai_chat import OpenAIChat
from runstream.providers.simulated import Simulator, word


def asked(messages: Sequence[Mapping[str, Any]] = CALL.prompt.messages, **parameters: Any) -> Call:
    return Call("m", Prompt(messages, **parameters))


@asynccontextmanager
async def serving(
    *answers: Answer, api_keys: tuple[str, ...] = ("k",), **options: Any
) -> AsyncIterator[tuple[RawServer, OpenAIChat]]:
    async with raw_server(*answers) as raw:
        provider = OpenAIChat(ProviderConfig("local", "openai", raw.url, api_keys), **options)
        try:
            yield raw, provider
        finally:
            await provider.aclose()


def delta(content: object, **choice: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m-1", "choices": [{"index": 0, "delta": {"content": content}, **choice}]}


ROLE = {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}
FILTER = {"id": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
FINISH = {"id": "c", "model": "m-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}},
}
PLAIN = events(ROLE, delta("Hel"), delta("lo"), FINISH, USAGE, "[DONE]")
OK = answer(PLAIN)
UNFINISHED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(PLAIN, id="OpenAI"),
        pytest.param(events(FILTER, ROLE, delta(""), delta("Hello"), FINISH, USAGE, "[DONE]"), id="Azure"),
        pytest.param(events(delta(None), delta("Hello"), FINISH, USAGE, "[DONE]"), id="null content"),
        pytest.param(events(delta("Hello"), FINISH | {"usage": USAGE["usage"]}, "[DONE]"), id="usage at the finish"),
        pytest.param(events(delta("Hello"), FINISH, USAGE), id="no end mark"),
        pytest.param(events(delta("Hello"), FINISH, USAGE).rstrip(), id="no end mark and no last blank line"),
        pytest.param(events(delta("Hello"), FINISH, USAGE, "[DONE]", end="\r\n\r\n"), id="CRLF"),
        pytest.param(events(delta("Hello"), FINISH, USAGE, "[DONE]", end="\r\r"), id="CR"),
        pytest.param(events(delta("Hello"), FINISH, USAGE, "[DONE]", prefix="data:"), id="no space after data"),
        pytest.param(events(delta("Hello"), FINISH, USAGE, "[DONE]", prefix=": ping\n\ndata: "), id="comments"),
        pytest.param(
            events(delta("Hello"), FINISH, USAGE, "[DONE]", prefix="event: chunk\nid: 1\ndata: "), id="fields"
        ),
        pytest.param(b"\xef\xbb\xbf" + PLAIN, id="byte order mark"),
        pytest.param(b"\n\n\n" + PLAIN + b"data: {nonsense after the end", id="more than there should be"),
        pytest.param(
            events(delta("Hel") | {"error": None, "usage": None}, delta("lo"), FINISH, USAGE, "[DONE]"),
            id="null error and usage",
        ),
    ],
)
@pytest.mark.parametrize("cut", [1, 7, 100_000])
async def test_every_servers_way_of_writing_an_answer_is_understood(body: bytes, cut: int) -> None:
    async def in_pieces(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"", 200).replace(b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"))
        for at in range(0, len(body), cut):
            piece = body[at : at + cut]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    async with serving(in_pieces) as (_, provider):
        text, finished = await generate(provider)
    assert text == "Hello"
    assert (finished.reason, finished.usage) == ("stop", Usage(9, 2, 8))


async def test_an_answer_that_ends_with_its_connection_is_understood() -> None:
    head = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    async with serving(head + PLAIN) as (raw, provider):
        for _ in range(3):
            assert (await generate(provider))[0] == "Hello"
    assert raw.connections == 3


async def test_a_compressed_answer_is_understood_though_none_was_asked_for() -> None:
    compressed = answer(gzip.compress(PLAIN), 200, "text/event-stream", "Content-Encoding: gzip")
    async with serving(compressed) as (raw, provider):
        assert (await generate(provider))[0] == "Hello"
    assert "accept-encoding: identity" in raw.requests[0].head.lower()


async def test_an_answer_that_came_all_at_once_is_understood() -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    whole = {"model": "m-1", "choices": [choice], "usage": USAGE["usage"]}
    async with serving(refusal(200, whole)) as (_, provider):
        assert await generate(provider) == ("Hello", Finished("stop", Usage(9, 2, 8), "m-1"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"error": {"message": "no such model", "code": 404}}, ProviderRefused),
        ({"error": {"message": "slow down", "type": "rate_limit_error"}}, ProviderRateLimited),
        ({"object": "error", "message": "gone wrong", "code": 500}, ProviderUnavailable),
        ({"nonsense": True}, ProviderProtocolError),
        ([], ProviderProtocolError),
    ],
)
async def test_an_error_under_status_200_is_told_before_the_call_counts_as_opened(
    error: object, kind: type[ProviderError]
) -> None:
    async with serving(refusal(200, error)) as (_, provider), provider.stream(CALL, PATIENT) as pieces:
        with pytest.raises(kind):
            await anext(pieces)


async def test_after_the_finish_reason_neither_silence_nor_a_broken_connection_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(account, "_AFTER_FINISH_SECONDS", 0.1)
    given_up = asyncio.Event()

    async def falls_silent(writer: asyncio.StreamWriter) -> None:
        writer.write(UNFINISHED + events(delta("Hello"), FINISH))
        await writer.drain()
        await given_up.wait()

    async def breaks_off(writer: asyncio.StreamWriter) -> None:
        writer.write(UNFINISHED + events(delta("Hello"), FINISH))
        writer.close()

    async with serving(falls_silent, breaks_off) as (_, provider):
        for _ in range(2):
            text, finished = await generate(provider)
            given_up.set()
            assert (text, finished) == ("Hello", Finished("stop", None, "m-1"))


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(OK[:-20], id="shorter than its length"),
        pytest.param(
            answer(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz\r\n", id="no chunk size"
        ),
        pytest.param(
            answer(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"ff\r\ndata: {", id="cut chunk"
        ),
        pytest.param(answer(b"", 200), id="empty"),
        pytest.param(answer(b"<html>", 200, "text/html"), id="a page"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="another protocol"),
    ],
)
async def test_an_answer_that_breaks_its_protocol_is_told_as_that(broken: bytes) -> None:
    async def breaks(writer: asyncio.StreamWriter) -> None:
        writer.write(broken.replace(events(FINISH), b"") if broken else b"")
        await writer.drain()
        writer.close()

    async with serving(breaks) as (_, provider):
        with pytest.raises(ProviderProtocolError):
            await generate(provider)


async def test_a_connection_reset_in_the_middle_is_a_broken_answer() -> None:
    async def resets(writer: asyncio.StreamWriter) -> None:
        writer.write(UNFINISHED + events(delta("Hello")))
        await writer.drain()
        await read.wait()
        writer.transport.abort()

    read = asyncio.Event()
    async with serving(resets) as (_, provider):
        with pytest.raises(ProviderProtocolError, match="broke off"):  # noqa: PT012
            async with provider.stream(CALL, PATIENT) as pieces:
                async for piece in pieces:
                    if isinstance(piece, TextDelta):
                        read.set()


async def test_a_kept_connection_that_the_server_closed_does_not_fail_the_call() -> None:
    async def closes(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with serving(OK, closes, OK) as (raw, provider):
        assert (await generate(provider))[0] == "Hello"
        assert (await generate(provider))[0] == "Hello"
    assert [request.connection for request in raw.requests] == [1, 1, 2]
    assert raw.requests[1].body == raw.requests[2].body


async def test_the_second_try_does_not_trust_another_kept_connection() -> None:
    async def closes(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def together(writer: asyncio.StreamWriter) -> None:
        await both.wait()
        writer.write(OK)

    both = asyncio.Barrier(2)
    async with serving(together, together, closes, OK) as (raw, provider):
        await asyncio.gather(generate(provider), generate(provider))
        assert raw.connections == 2
        assert (await generate(provider))[0] == "Hello"
    assert [request.connection for request in raw.requests][2:] in ([1, 3], [2, 3])


async def test_a_connection_is_kept_though_its_last_bytes_come_after_the_end_mark() -> None:
    async def ends_late(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        writer.write(b"%x\r\n%s\r\n" % (len(PLAIN), PLAIN))
        await writer.drain()
        await asyncio.sleep(0.003)
        writer.write(b"0\r\n\r\n")

    async with serving(ends_late) as (raw, provider):
        for _ in range(3):
            assert (await generate(provider))[0] == "Hello"
    assert raw.connections == 1


async def test_a_call_that_fails_on_a_new_connection_is_not_made_twice() -> None:
    async def closes(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with serving(closes) as (raw, provider):
        with pytest.raises(ProviderUnavailable, match="closed the connection"):
            await generate(provider)
    assert len(raw.requests) == 1


async def test_a_call_is_made_at_most_twice_when_kept_connections_fail() -> None:
    async def closes(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with serving(OK, closes) as (raw, provider):
        await generate(provider)
        with pytest.raises(ProviderUnavailable):
            await generate(provider)
    assert len(raw.requests) == 3


async def test_the_call_is_written_in_the_protocols_words() -> None:
    prompt = Prompt(
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße 🙂"}],
        temperature=0.5,
        max_output_tokens=20,
        stop=["END"],
        response_format={"type": "json_object"},
    )
    async with serving(OK) as (raw, provider):
        await generate(provider, Call("m", prompt))
    assert raw.requests[0].head.startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert raw.requests[0].body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße 🙂"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 20,
        "stop": ["END"],
        "response_format": {"type": "json_object"},
    }


async def test_what_the_call_leaves_out_is_left_to_the_server() -> None:
    async with serving(OK) as (raw, provider):
        await generate(provider)
    assert set(raw.requests[0].body) == {"model", "messages", "stream", "stream_options"}


async def test_a_query_in_the_base_url_is_kept() -> None:
    async with serving(OK) as (raw, other):
        provider = OpenAIChat(ProviderConfig("azure", "openai", raw.url + "/?api-version=2024-10-21", ("k",)))
        await generate(provider)
        await provider.aclose()
        assert raw.requests[0].head.startswith("POST /v1/chat/completions?api-version=2024-10-21 ")
        await generate(other)


@pytest.mark.parametrize(
    ("status", "error", "fields"),
    [
        (
            400,
            {
                "error": {
                    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
                    "Use 'max_completion_tokens' instead.",
                    "param": "max_tokens",
                    "code": "unsupported_parameter",
                }
            },
            {"max_completion_tokens": 9, "stream_options": {"include_usage": True}},
        ),
        (
            422,
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs"}]},
            {"max_tokens": 9},
        ),
        (400, {"error": {"message": "Unrecognized request argument supplied: stream_options"}}, {"max_tokens": 9}),
    ],
)
async def test_a_field_that_the_server_does_not_know_is_put_otherwise_and_remembered(
    status: int, error: object, fields: dict[str, Any]
) -> None:
    call = asked(max_output_tokens=9)
    async with serving(refusal(status, error), OK) as (raw, provider):
        assert (await generate(provider, call))[0] == "Hello"
        assert (await generate(provider, call))[0] == "Hello"
    assert len(raw.requests) == 3
    for request in raw.requests[1:]:
        assert {name: value for name, value in request.body.items() if name in _OPTIONAL} == fields


_OPTIONAL = {"max_tokens", "max_completion_tokens", "stream_options"}


async def test_a_server_that_knows_no_field_at_all_is_asked_a_few_times_and_then_believed() -> None:
    error = {"error": {"message": "unknown: stream_options, max_tokens, max_completion_tokens"}}
    async with serving(refusal(400, error)) as (raw, provider):
        with pytest.raises(ProviderRefused, match="400: unknown"):
            await generate(provider, asked(max_output_tokens=9))
    assert len(raw.requests) == 3


async def test_a_limit_that_is_only_too_large_is_refused_at_once() -> None:
    error = {"error": {"message": "max_tokens is too large: 999999.", "param": "max_tokens"}}
    async with serving(refusal(400, error)) as (raw, provider):
        with pytest.raises(ProviderRefused, match="too large"):
            await generate(provider, asked(max_output_tokens=999_999))
    assert len(raw.requests) == 1


async def test_keys_take_turns_and_none_is_sent_where_there_is_none() -> None:
    async with serving(OK, api_keys=("first", "second")) as (raw, provider):
        for _ in range(4):
            await generate(provider)
    lines = [line.lower() for request in raw.requests for line in request.head.split("\r\n")]
    sent = [line for line in lines if line.startswith("authorization")]
    assert sent == [f"authorization: bearer {key}" for key in ("first", "second", "first", "second")]
    async with serving(OK, api_keys=()) as (raw, provider):
        await generate(provider)
    assert "authorization" not in raw.requests[0].head.lower()


async def test_a_providers_cookies_are_not_sent_back() -> None:
    async with serving(answer(PLAIN, 200, "text/event-stream", "Set-Cookie: a=b; Path=/")) as (raw, provider):
        await generate(provider)
        await generate(provider)
    assert "cookie" not in raw.requests[1].head.lower()


async def test_a_redirect_is_not_followed_with_the_key() -> None:
    moved = b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with serving(moved) as (raw, provider):
        with pytest.raises(ProviderRefused, match="307"):
            await generate(provider)
    assert len(raw.requests) == 1


async def test_a_refusal_shows_neither_the_key_nor_the_prompt() -> None:
    key = "sk-proj-Abc123-456_xyz"
    error = {"error": {"message": f"Incorrect key {key} (sk-pr****xyz) for 'My secret diary, page one'"}}
    call = asked([{"role": "user", "content": "My secret diary, page one"}])
    async with serving(refusal(401, error), api_keys=(key,)) as (_, provider):
        with pytest.raises(ProviderRefused) as refused:
            await generate(provider, call)
    assert refused.value.message == "The provider answered 401: Incorrect key [key] ([key]) for '[prompt]'"
    assert key not in repr(provider)


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"upstream is down", "text/plain", "The provider answered 502: upstream is down"),
        (b"<html><h1>Bad gateway</h1></html>", "text/html", "The provider answered 502."),
        (b"{", "application/json", "The provider answered 502."),
        (b"", "application/json", "The provider answered 502."),
        (b'{"message": "%s"}' % (b"x" * 70_000), "application/json", "The provider answered 502."),
    ],
)
async def test_a_refusal_carries_its_message_where_it_has_one(body: bytes, content_type: str, message: str) -> None:
    async with serving(answer(body, 502, content_type)) as (_, provider):
        with pytest.raises(ProviderUnavailable) as failed:
            await generate(provider)
    assert failed.value.message == message


async def test_the_time_to_wait_may_be_a_date() -> None:
    limited = refusal(429, {"error": "later"}, "Retry-After: Thu, 01 Jan 1970 00:01:40 GMT")
    async with serving(limited, now=lambda: 70.0) as (_, provider):
        with pytest.raises(ProviderRateLimited) as failed:
            await generate(provider)
    assert failed.value.retry_after == 30


async def test_an_event_beyond_the_bound_is_refused_without_reading_on() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: ")
        while not writer.is_closing():
            writer.write(b"x" * 10_000)
            await writer.drain()
            await asyncio.sleep(0)

    async with serving(endless, max_event_bytes=100_000) as (_, provider):
        with pytest.raises(ProviderProtocolError, match="larger than 100000 bytes"):
            await generate(provider)


async def test_a_list_of_models_that_is_none_is_told() -> None:
    async with serving(refusal(200, {"data": None})) as (_, provider):
        with pytest.raises(ProviderProtocolError, match="list of models"):
            await provider.models()


async def test_calls_go_through_the_proxy_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Simulator() as simulator:
        monkeypatch.setenv("HTTP_PROXY", simulator.url.removesuffix("/v1"))
        monkeypatch.setenv("http_proxy", simulator.url.removesuffix("/v1"))
        monkeypatch.setenv("NO_PROXY", "localhost")
        monkeypatch.setenv("no_proxy", "localhost")
        provider = OpenAIChat(ProviderConfig("local", "openai", "http://models.invalid/v1", ("k",)))
        text, _ = await generate(provider, replace(CALL, model="sim:3"))
        await provider.aclose()
    assert text == "".join(map(word, range(3)))
