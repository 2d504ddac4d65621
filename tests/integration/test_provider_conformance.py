"""What every provider promises, whatever its protocol: each runs against the simulator, which speaks them all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from proxy import Proxy
from runstream.domain.errors import (
    ConfigurationError,
    ProviderError,
    ProviderProtocolError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from runstream.domain.prompt import Prompt
from runstream.providers import kept_response
from runstream.providers.base import (
    Call,
    Finished,
    Opened,
    Provider,
    ProviderConfig,
    ReasoningDelta,
    Resumable,
    TextDelta,
    Timeouts,
    ToolCallDelta,
)
from runstream.providers.registry import build
from runstream.providers.simulated import CALLED, Simulator, call_id, unicode_token, word
from runstream.providers.upstream import STALE
from waiting import until

PATIENT = Timeouts(connect=10, first_token=30, idle=30, total=60)
DEADLINE = 20
IN_BACKGROUND = "openai-responses in the background"
WITHOUT_STOP = {"openai-responses", IN_BACKGROUND}
"""Kinds whose protocol has no stop sequences."""


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture(params=["anthropic", "openai", "openai-responses", IN_BACKGROUND])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(kept_response, "_PAUSES", (0.01,) * 5)
    monkeypatch.setattr(kept_response, "_STOPPING", 1.0)
    return str(request.param)


def config(kind: str, base_url: str, api_keys: tuple[str, ...] = ()) -> ProviderConfig:
    return ProviderConfig("local", kind.split(maxsplit=1)[0], base_url, api_keys, background=kind == IN_BACKGROUND)


@pytest.fixture
async def provider(kind: str, simulator: Simulator) -> AsyncIterator[Provider]:
    provider = build(config(kind, simulator.url, ("some-key",)))
    yield provider
    await provider.aclose()


@dataclass
class Outcome:
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCallDelta] = field(default_factory=list)
    opened: Opened | None = None
    resumable: Resumable | None = None
    finished: Finished | None = None
    error: ProviderError | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


def call(model: str, **fields: Any) -> Call:
    return Call(model, Prompt([{"role": "user", "content": "Tell me something."}], **fields))


async def generate(provider: Provider, asked: Call, timeouts: Timeouts = PATIENT) -> Outcome:
    outcome = Outcome()
    try:
        async with asyncio.timeout(DEADLINE), provider.stream(asked, timeouts) as pieces:
            async for piece in pieces:
                match piece:
                    case Opened():
                        assert outcome.opened is None
                        assert not outcome.texts
                        outcome.opened = piece
                    case Resumable():
                        assert outcome.opened
                        assert outcome.resumable is None
                        assert not outcome.texts
                        outcome.resumable = piece
                    case TextDelta(text):
                        assert text
                        assert outcome.opened
                        assert outcome.finished is None
                        outcome.texts.append(text)
                    case ReasoningDelta(text):
                        assert text
                        assert outcome.opened
                        assert not outcome.texts
                        outcome.thoughts.append(text)
                    case ToolCallDelta():
                        assert outcome.opened
                        outcome.calls.append(piece)
                    case Finished():
                        assert outcome.finished is None
                        outcome.finished = piece
    except ProviderError as error:
        outcome.error = error
    return outcome


def words(count: int) -> str:
    return "".join(map(word, range(count)))


@pytest.mark.parametrize("model", ["sim:200:0", "sim:30:300", "sim:20000:0", "sim:1:0:20", "sim:0:0"])
async def test_an_answer_arrives_whole_in_order_and_counted(provider: Provider, model: str) -> None:
    count = int(model.split(":")[1])
    outcome = await generate(provider, call(model))
    assert outcome.error is None
    assert outcome.text == words(count)
    assert outcome.opened is not None
    assert outcome.opened.request_id
    assert outcome.finished is not None
    assert (outcome.finished.reason, outcome.finished.model) == ("stop", model)
    assert outcome.finished.usage is not None
    assert outcome.finished.usage.output_tokens == count
    assert outcome.finished.usage.input_tokens == 3


@pytest.mark.parametrize("rate", [0, 100])
async def test_reasoning_is_told_apart_from_the_text_that_follows_it(provider: Provider, rate: int) -> None:
    outcome = await generate(provider, call(f"reasoning:8:5:{rate}", reasoning_effort="low"))
    assert outcome.error is None
    assert "".join(outcome.thoughts) == "".join(f"r{index} " for index in range(8))
    assert outcome.text == words(5)
    assert outcome.finished is not None
    assert outcome.finished.reason == "stop"
    assert outcome.finished.usage is not None
    assert outcome.finished.usage.output_tokens == 13
    assert (len(outcome.thoughts) > 1) == bool(rate)


@pytest.mark.parametrize("rate", [0, 25])
async def test_each_tool_call_is_opened_once_and_its_arguments_come_as_they_are_made(
    provider: Provider, rate: int
) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in CALLED]
    outcome = await generate(provider, call(f"tools:4:3:{rate}", tools=tools))
    assert outcome.error is None
    assert outcome.text == words(3)
    assert outcome.finished is not None
    assert outcome.finished.reason == "tool_calls"
    opened = [(piece.index, piece.id, piece.name) for piece in outcome.calls if piece.name or piece.id]
    assert opened == [(index, call_id(index), name) for index, name in enumerate(CALLED)]
    for index in range(len(CALLED)):
        pieces = [piece.arguments for piece in outcome.calls if piece.index == index and piece.arguments]
        assert "".join(pieces) == f'{{"text":"{words(4)}"}}'
        assert (len(pieces) > 1) == bool(rate)


async def test_a_tool_call_stops_at_the_limit_too(provider: Provider) -> None:
    outcome = await generate(provider, call("tools:50", max_output_tokens=5))
    assert "".join(piece.arguments for piece in outcome.calls) == f'{{"text":"{words(3)}'
    assert outcome.finished is not None
    assert outcome.finished.reason == "length"


async def test_tokens_that_came_together_are_one_delta_and_others_are_not_held_back(provider: Provider) -> None:
    assert len((await generate(provider, call("sim:1000:0"))).texts) < 200
    assert len((await generate(provider, call("sim:10:10"))).texts) == 10


async def test_text_of_every_script_arrives_as_it_was_sent(provider: Provider) -> None:
    outcome = await generate(provider, call("unicode:500:0"))
    assert outcome.text == "".join(map(unicode_token, range(500)))


async def test_an_answer_stops_at_its_limit_and_says_so(provider: Provider) -> None:
    outcome = await generate(provider, call("sim:50", max_output_tokens=7))
    assert outcome.text == words(7)
    assert outcome.finished is not None
    assert outcome.finished.reason == "length"


async def test_an_answer_ends_before_a_stop_sequence_or_is_not_asked_for(
    kind: str, provider: Provider, simulator: Simulator
) -> None:
    outcome = await generate(provider, call("sim:50", stop=["w5", "w9"]))
    if kind in WITHOUT_STOP:
        assert isinstance(outcome.error, ProviderRefused)
        assert "stop sequences" in outcome.error.message
        assert not simulator.calls
        return
    assert outcome.text == words(5)
    assert outcome.finished is not None
    assert outcome.finished.reason == "stop"


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA, "strict": True}}
NAMED = {"type": "function", "function": {"name": "look"}}
ONE_CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a": "b"}'}}
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Look."},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        ],
    },
    {"role": "assistant", "content": None, "tool_calls": [ONE_CALL, ONE_CALL | {"id": "call_2"}]},
    {"role": "tool", "tool_call_id": "call_1", "content": "Seen."},
    {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "Seen."}]},
    {"role": "user", "content": "And now?"},
]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 2},
        {"max_output_tokens": 5, "reasoning_effort": "high"},
        {"reasoning_effort": "minimal", "temperature": 0.7},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}},
        {"tools": [TOOL], "tool_choice": "required", "reasoning_effort": "high"},
        {"tools": [TOOL], "tool_choice": "none"},
        {"tools": [TOOL], "tool_choice": NAMED},
        {"messages": CONVERSATION, "tools": [TOOL], "tool_choice": "auto"},
    ],
    ids=" ".join,
)
async def test_all_that_a_prompt_can_say_may_be_asked(provider: Provider, fields: dict[str, Any]) -> None:
    prompt = replace(call("sim:5").prompt, **fields)
    outcome = await generate(provider, Call("sim:5", prompt))
    assert outcome.error is None
    assert outcome.text == words(5)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ProviderRefused),
        (401, ProviderRefused),
        (403, ProviderRefused),
        (404, ProviderRefused),
        (429, ProviderRateLimited),
        (408, ProviderUnavailable),
        (500, ProviderUnavailable),
        (503, ProviderUnavailable),
        (529, ProviderUnavailable),
    ],
)
async def test_a_refusal_before_the_answer_is_told_by_its_status(
    provider: Provider, status: int, error: type[ProviderError]
) -> None:
    outcome = await generate(provider, call(f"status:{status}"))
    assert outcome.opened is None
    assert type(outcome.error) is error
    assert f"{status}: simulated status {status}" in outcome.error.message


async def test_a_rate_limit_carries_the_time_to_wait(provider: Provider) -> None:
    outcome = await generate(provider, call("status:429"))
    assert outcome.error is not None
    assert outcome.error.retry_after == 1


async def test_a_wrong_key_is_refused_without_being_shown(kind: str, simulator: Simulator) -> None:
    provider = build(config(kind, simulator.url, ("bad",)))
    outcome = await generate(provider, call("sim:3"))
    assert isinstance(outcome.error, ProviderRefused)
    assert "401" in outcome.error.message
    assert "bad" not in outcome.error.message
    await provider.aclose()


async def test_a_failed_call_may_succeed_when_made_again(provider: Provider) -> None:
    asked = call("flaky:2:5")
    outcomes = [await generate(provider, asked) for _ in range(3)]
    assert [type(outcome.error) for outcome in outcomes] == [ProviderUnavailable, ProviderUnavailable, type(None)]
    assert outcomes[2].text == words(5)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("cut:5:200", ProviderProtocolError, "broke off"),
        ("error:5", ProviderUnavailable, "simulated error"),
        ("malformed:5", ProviderProtocolError, "not JSON"),
        ("nofinish:5", ProviderProtocolError, "without a finish reason"),
        ("hang:5", ProviderTimeout, "silent for 0.3 s"),
    ],
)
async def test_a_stream_that_breaks_gives_the_text_before_it_and_then_the_error(
    provider: Provider, model: str, error: type[ProviderError], message: str
) -> None:
    outcome = await generate(provider, call(model), replace(PATIENT, idle=0.3))
    assert outcome.text == words(5)
    assert outcome.finished is None
    assert type(outcome.error) is error
    assert message in outcome.error.message
    assert outcome.error.retryable


async def test_a_token_of_megabytes_passes_and_one_beyond_the_bound_does_not(provider: Provider) -> None:
    assert (await generate(provider, call("big:7000000"))).text == "x" * 7_000_000
    outcome = await generate(provider, call("big:9000000"))
    assert isinstance(outcome.error, ProviderProtocolError)
    assert "larger than" in outcome.error.message


@pytest.mark.parametrize(
    ("model", "timeouts", "message"),
    [
        ("slow-headers:20000", replace(PATIENT, first_token=0.2), "No first token came within 0.2 s"),
        ("sim:5:0:20000", replace(PATIENT, first_token=0.2), "No first token came within 0.2 s"),
        ("hang:0", replace(PATIENT, first_token=0.2, idle=0.1), "No first token came within 0.2 s"),
        ("hang:1", replace(PATIENT, idle=0.2), "silent for 0.2 s"),
        ("sim:5000:100", replace(PATIENT, total=0.3), "did not finish within 0.3 s"),
        ("slow-headers:20000", replace(PATIENT, total=0.3), "did not finish within 0.3 s"),
    ],
)
async def test_each_time_that_runs_out_is_named_and_closes_the_connection(
    provider: Provider, simulator: Simulator, model: str, timeouts: Timeouts, message: str
) -> None:
    outcome = await generate(provider, call(model), timeouts)
    assert isinstance(outcome.error, ProviderTimeout)
    assert message in outcome.error.message
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await until(lambda: simulator.open_streams == 0)
    assert simulator.closed_by_client == 1


async def test_a_steady_stream_may_last_longer_than_its_idle_time(provider: Provider) -> None:
    outcome = await generate(provider, call("sim:20:20"), replace(PATIENT, first_token=0.5, idle=0.5))
    assert outcome.error is None
    assert outcome.text == words(20)


async def test_a_slow_consumer_does_not_make_its_provider_look_idle(provider: Provider) -> None:
    texts = []
    async with provider.stream(call("sim:6:20"), replace(PATIENT, first_token=0.3, idle=0.3)) as pieces:
        async for piece in pieces:
            if isinstance(piece, TextDelta):
                texts.append(piece.text)
                await asyncio.sleep(0.4)
    assert "".join(texts) == words(6)


async def test_the_total_time_counts_whoever_takes_it(provider: Provider) -> None:
    async def consume() -> None:
        async with provider.stream(call("sim:100000:0"), replace(PATIENT, total=0.2)) as pieces:
            async for _ in pieces:
                await asyncio.sleep(0.02)

    with pytest.raises(ProviderTimeout, match="did not finish within"):
        async with asyncio.timeout(DEADLINE):
            await consume()


async def test_a_first_token_that_is_late_is_told_though_the_consumer_was_busy_when_its_time_ran_out(
    provider: Provider,
) -> None:
    async def consume() -> None:
        async with provider.stream(call("hang:0"), replace(PATIENT, first_token=0.1)) as pieces:
            async for _ in pieces:
                await asyncio.sleep(0.2)

    with pytest.raises(ProviderTimeout, match="No first token"):
        async with asyncio.timeout(DEADLINE):
            await consume()


async def test_leaving_in_the_middle_closes_the_upstream_connection(provider: Provider, simulator: Simulator) -> None:
    async with provider.stream(call("hang:3"), PATIENT) as pieces:
        async for piece in pieces:
            if isinstance(piece, TextDelta):
                break
        assert simulator.open_streams == 1
    await until(lambda: simulator.open_streams == 0)
    assert simulator.closed_by_client == 1


@pytest.mark.parametrize("model", ["hang:3", "hang:0", "slow-headers:20000", "sim:100000:0", "sim:1000:100"])
async def test_a_cancelled_call_closes_the_upstream_connection_and_stays_cancelled(
    provider: Provider, simulator: Simulator, model: str
) -> None:
    async def consume() -> None:
        async with provider.stream(call(model), PATIENT) as pieces:
            async for _ in pieces:
                await asyncio.sleep(0)
            await asyncio.Event().wait()

    consumer = asyncio.create_task(consume())
    await until(lambda: simulator.open_streams == 1)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    await until(lambda: simulator.open_streams == 0)
    assert simulator.closed_by_client == 1


async def test_an_error_in_the_consumer_passes_through_and_closes_the_connection(
    provider: Provider, simulator: Simulator
) -> None:
    async def consume() -> None:
        async with provider.stream(call("hang:3"), PATIENT) as pieces:
            async for _ in pieces:
                raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await consume()
    await until(lambda: simulator.open_streams == 0)


async def test_calls_one_after_the_other_share_a_connection(provider: Provider, simulator: Simulator) -> None:
    for _ in range(5):
        assert (await generate(provider, call("sim:5"))).error is None
    assert (await generate(provider, call("status:400"))).error is not None
    assert (await generate(provider, call("sim:5"))).error is None
    assert simulator.connections == 1


async def test_a_call_whose_connection_is_lost_while_it_waits_for_an_answer_is_not_made_again(
    kind: str, simulator: Simulator
) -> None:
    """On a kept connection too: the provider had begun to work, and both calls would be billed."""
    with Proxy.to(simulator.url) as proxy:
        provider = build(config(kind, proxy.through(simulator.url), ("some-key",)))
        assert (await generate(provider, call("sim:1"))).error is None
        waiting = asyncio.create_task(generate(provider, call("slow-headers:20000")))
        await until(lambda: simulator.open_streams == 1)
        await asyncio.sleep(2 * STALE)  # longer than a connection that was closed beforehand takes to say so
        await asyncio.to_thread(proxy.reset)
        assert isinstance((await waiting).error, ProviderUnavailable)
        assert (simulator.connections, simulator.calls["slow-headers:20000"]) == (1, 1)
        await provider.aclose()


async def test_hundreds_of_calls_run_at_once(provider: Provider, simulator: Simulator) -> None:
    """More than any pool's default; both ends of each connection count against this process's file limit."""
    streams = 350
    async with AsyncExitStack() as stack:
        opening = (stack.enter_async_context(provider.stream(call("hang:1"), PATIENT)) for _ in range(streams))
        await asyncio.gather(*opening)
        assert simulator.open_streams == streams
    await until(lambda: simulator.open_streams == 0)


async def test_calls_do_not_mix_their_answers(provider: Provider) -> None:
    counts = range(1, 60)
    outcomes = await asyncio.gather(*(generate(provider, call(f"sim:{count}:200")) for count in counts))
    assert [outcome.text for outcome in outcomes] == [words(count) for count in counts]


async def test_models_are_listed_without_a_generation(provider: Provider, simulator: Simulator) -> None:
    assert "sim:200:50" in await provider.models()
    assert simulator.stats()["calls"] == {}


async def test_listing_models_with_a_wrong_key_is_refused(kind: str, simulator: Simulator) -> None:
    provider = build(config(kind, simulator.url, ("bad",)))
    with pytest.raises(ProviderRefused, match="401"):
        await provider.models()
    await provider.aclose()


@pytest.mark.parametrize(
    ("base_url", "message"),
    [
        ("http://127.0.0.1:1/v1", "could not be connected to"),
        ("http://no-such-host.invalid/v1", "host name does not resolve"),
    ],
)
async def test_a_provider_that_is_not_there_is_unavailable(kind: str, base_url: str, message: str) -> None:
    provider = build(config(kind, base_url))
    outcome = await generate(provider, call("sim:1"))
    assert isinstance(outcome.error, ProviderUnavailable)
    assert message in outcome.error.message
    with pytest.raises(ProviderUnavailable):
        await provider.models()
    await provider.aclose()


async def test_a_provider_that_speaks_no_tls_is_unavailable(kind: str, simulator: Simulator) -> None:
    provider = build(config(kind, simulator.url.replace("http:", "https:")))
    outcome = await generate(provider, call("sim:1"))
    assert isinstance(outcome.error, ProviderUnavailable)
    await provider.aclose()


async def test_a_provider_that_accepts_and_says_nothing_runs_out_of_time(kind: str) -> None:
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    provider = build(config(kind, f"http://127.0.0.1:{port}/v1"))
    outcome = await generate(provider, call("sim:1"), replace(PATIENT, first_token=0.2))
    assert isinstance(outcome.error, ProviderTimeout)
    await provider.aclose()
    server.close()


@pytest.mark.parametrize("base_url", ["", "localhost:8000/v1", "ftp://x/v1", "http://", "http://[/v1", "http://x:y/v1"])
def test_a_bad_address_is_told_when_the_provider_is_built(kind: str, base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        build(config(kind, base_url))


def test_an_unknown_kind_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"give one of .*openai"):
        build(ProviderConfig("local", "nonsense", "http://x/v1"))
