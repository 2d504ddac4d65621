"""The Responses protocol: what is asked of a server, and answers in the background that outlive their connections."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import Proxy
from raw_server import CALL, PATIENT, answer, events, generate, raw_server, refusal
from runstream.connections import provider_configs
from runstream.domain.errors import (
    ConfigurationError,
    ProviderAnswerLost,
    ProviderRefused,
    ProviderUnavailable,
)
from runstream.domain.prompt import Prompt
from runstream.domain.usage import Usage
from runstream.providers import kept_response, key_file
from runstream.providers.base import Call, Finished, Opened, Piece, ProviderConfig, Resumable, TextDelta
from runstream.providers.openai_responses import OpenAIResponses
from runstream.providers.registry import build
from runstream.providers.simulated import Simulator, word
from runstream.settings import Settings
from waiting import until

DEADLINE = 20
FIRST_ID = "resp_sim1"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_response, "_PAUSES", (0.01, 0.02, 0.05, 0.1, 0.2))
    monkeypatch.setattr(kept_response, "_POLL", 0.02)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@asynccontextmanager
async def keeping(
    url: str, api_keys: tuple[str, ...] = ("k",), *, background: bool = True
) -> AsyncIterator[OpenAIResponses]:
    provider = OpenAIResponses(ProviderConfig("local", "openai-responses", url, api_keys, background))
    try:
        yield provider
    finally:
        await provider.aclose()


def call(model: str, **fields: Any) -> Call:
    return Call(model, Prompt([{"role": "user", "content": "Tell me something."}]), **fields)


def words(count: int) -> str:
    return "".join(map(word, range(count)))


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))


async def take(provider: OpenAIResponses, asked: Call, characters: int = 10**9) -> list[Piece]:
    """The answer's pieces; left as soon as it has said so many characters."""
    pieces: list[Piece] = []
    async with asyncio.timeout(DEADLINE), provider.stream(asked, PATIENT) as answer:
        async for piece in answer:
            pieces.append(piece)
            if len(text_of(pieces)) >= characters:
                break
    return pieces


def endings(simulator: Simulator) -> list[str]:
    return [told["ending"] for told in simulator.record.told()["calls"]]


# In the foreground.

CREATED = {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "status": "in_progress"}}
HELLO = {"type": "response.output_text.delta", "sequence_number": 1, "delta": "Hello"}
END = {
    "type": "response.completed",
    "sequence_number": 2,
    "response": {
        "id": "resp_1",
        "status": "completed",
        "model": "m-1",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}],
        "usage": {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 8}},
    },
}
PLAIN = events(CREATED, HELLO, END)
FINISHED = Finished("stop", Usage(9, 2, 8), "m-1")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(PLAIN, id="as it is"),
        pytest.param(PLAIN.rstrip(), id="no last blank line"),
        pytest.param(events(CREATED, HELLO, END, end="\r\n\r\n"), id="CRLF"),
        pytest.param(events(CREATED, HELLO, END, prefix="event: e\nid: 1\ndata:"), id="fields"),
        pytest.param(events(CREATED, HELLO, END, "[DONE]"), id="an end mark"),
        pytest.param(events({"type": "keepalive"}, CREATED, {"type": "response.new"}, HELLO, END), id="new events"),
    ],
)
@pytest.mark.parametrize("background", [True, False])
async def test_every_servers_way_of_writing_an_answer_is_understood(body: bytes, background: bool) -> None:
    async with raw_server(answer(body)) as raw, keeping(raw.url, background=background) as provider:
        assert await generate(provider) == ("Hello", FINISHED)


async def test_an_answer_that_came_all_at_once_is_understood() -> None:
    async with raw_server(refusal(200, END["response"])) as raw, keeping(raw.url, background=False) as provider:
        assert await generate(provider) == ("Hello", FINISHED)


async def test_what_is_asked_is_not_stored_unless_it_is_to_go_on_in_the_background() -> None:
    item = {"type": "message", "role": "user", "content": "Tell me something."}
    for background in (True, False):
        async with raw_server(answer(PLAIN)) as raw, keeping(raw.url, background=background) as provider:
            await generate(provider)
        asked = {"model": "m", "stream": True, "input": [item], "store": background}
        assert raw.requests[0].body == (asked | {"background": True} if background else asked)
        assert raw.requests[0].head.startswith("POST /v1/responses HTTP/1.1")


async def test_an_address_keeps_its_query() -> None:
    async with raw_server(answer(PLAIN)) as raw, keeping(raw.url + "?api-version=preview") as provider:
        await generate(provider)
        await generate(provider, replace(CALL, resume="resp_1"))
    assert raw.requests[0].head.startswith("POST /v1/responses?api-version=preview ")
    assert raw.requests[1].head.startswith("GET /v1/responses/resp_1?api-version=preview&stream=true ")


async def test_who_may_have_no_summary_of_the_reasoning_asks_without_and_only_once() -> None:
    message = "Your organization must be verified to generate reasoning summaries."
    refused = refusal(400, {"error": {"message": message, "param": "reasoning.summary", "code": "unsupported_value"}})
    asked = replace(CALL, prompt=replace(CALL.prompt, reasoning_effort="low"))
    async with raw_server(refused, answer(PLAIN)) as raw, keeping(raw.url, background=False) as provider:
        await generate(provider, asked)
        await generate(provider, asked)
    plain = {"effort": "low"}
    assert [request.body["reasoning"] for request in raw.requests] == [plain | {"summary": "auto"}, plain, plain]


@pytest.mark.parametrize("background", [True, False])
async def test_stop_sequences_are_refused_before_anything_is_asked(simulator: Simulator, background: bool) -> None:
    async with keeping(simulator.url, background=background) as provider:
        with pytest.raises(ProviderRefused, match="no stop sequences"):
            await take(provider, Call("sim:5", replace(CALL.prompt, stop=["w3"])))
    assert simulator.connections == 0


# In the background.


async def test_an_answer_tells_its_id_first_and_can_be_read_again_by_another_process(simulator: Simulator) -> None:
    async with keeping(simulator.url) as first, keeping(simulator.url) as second:
        pieces = await take(first, call("sim:50:2000"))
        again = await take(second, call("sim:50:2000", resume=FIRST_ID))
    assert isinstance(pieces[0], Opened)
    assert pieces[1] == Resumable(FIRST_ID)
    assert text_of(pieces) == text_of(again) == words(50)
    assert pieces[-1] == again[-1]
    assert simulator.calls == {"sim:50:2000": 1}


async def test_an_answer_that_is_kept_goes_on_and_is_taken_up_where_it_is(simulator: Simulator) -> None:
    async with keeping(simulator.url) as provider:
        begun = await take(provider, call("sim:300:300", keep=lambda: True), characters=20)
    assert len(text_of(begun)) < 200
    async with keeping(simulator.url) as provider:
        assert text_of(await take(provider, call("sim:300:300", resume=FIRST_ID))) == words(300)
    assert simulator.calls == {"sim:300:300": 1}
    assert endings(simulator) == ["finish"]


@pytest.mark.parametrize("resume", [None, FIRST_ID])
async def test_an_answer_that_is_left_is_stopped_at_the_provider(simulator: Simulator, resume: str | None) -> None:
    async with keeping(simulator.url) as provider:
        if resume:
            await take(provider, call("sim:1000:50", keep=lambda: True), characters=5)
        await take(provider, call("sim:1000:50", resume=resume), characters=20)
        await until(lambda: endings(simulator) == ["cancelled"])


async def test_an_answer_that_has_ended_is_not_stopped() -> None:
    async with raw_server(answer(PLAIN)) as raw, keeping(raw.url) as provider:
        await generate(provider)
    assert len(raw.requests) == 1


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("model", ["slow-headers:500:1000:50", "hang:0"])
async def test_an_answer_whose_id_nobody_was_told_is_stopped_once_it_is_known(
    simulator: Simulator, model: str, keep: bool
) -> None:
    async with keeping(simulator.url) as provider:
        consumer = asyncio.create_task(take(provider, call(model, keep=lambda: keep)))
        await until(lambda: simulator.open_streams == 1)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        if model.startswith("slow") or not keep:
            await until(lambda: endings(simulator) == ["cancelled"])


async def test_what_cannot_be_stopped_is_let_go_in_time(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_response, "_STOPPING", 0.3)
    with Proxy.to(simulator.url) as proxy:
        async with asyncio.timeout(5):
            async with keeping(proxy.through(simulator.url)) as provider:
                await take(provider, call("sim:1000:50"), characters=5)
                await asyncio.to_thread(proxy.stall)


async def test_a_broken_connection_is_made_anew_and_the_answer_read_on_where_it_broke(simulator: Simulator) -> None:
    with Proxy.to(simulator.url) as proxy:
        async with keeping(proxy.through(simulator.url)) as provider:
            taking = asyncio.create_task(take(provider, call("sim:400:400")))
            await until(lambda: simulator.open_streams == 1)
            await asyncio.sleep(0.1)  # some of it is said
            for connections in (2, 3, 4):
                await asyncio.to_thread(proxy.reset)
                await until(lambda most=connections: simulator.connections >= most)
            await asyncio.to_thread(proxy.cut)
            await asyncio.sleep(0.1)  # it finds nobody there
            await asyncio.to_thread(proxy.mend)
            pieces = await taking
    assert text_of(pieces) == words(400)
    assert [type(piece) for piece in pieces if not isinstance(piece, TextDelta)] == [Opened, Resumable, Finished]
    assert simulator.calls == {"sim:400:400": 1}
    assert simulator.connections >= 4


async def test_a_provider_that_stays_away_is_given_up_after_five_times(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_response, "_STOPPING", 0.2)
    with Proxy.to(simulator.url) as proxy:
        async with keeping(proxy.through(simulator.url)) as provider:
            taking = asyncio.create_task(take(provider, call("sim:400:100")))
            await until(lambda: simulator.open_streams == 1)
            await asyncio.to_thread(proxy.cut)
            with pytest.raises(ProviderUnavailable):
                await taking


async def test_an_answer_is_taken_up_though_the_provider_is_away_for_a_moment() -> None:
    away = refusal(503, {"error": {"message": "away"}})
    async with raw_server(away, away, answer(PLAIN)) as raw, keeping(raw.url) as provider:
        assert await generate(provider, replace(CALL, resume="resp_1")) == ("Hello", FINISHED)


async def test_an_answer_that_the_provider_has_forgotten_is_lost(simulator: Simulator) -> None:
    async with keeping(simulator.url) as provider:
        for unknown in ("resp_unknown", "../models", ""):
            with pytest.raises(ProviderAnswerLost) as lost:
                await take(provider, call("sim:5", resume=unknown))
            assert lost.value.retryable
        await take(provider, call("sim:1000:50", keep=lambda: True), characters=5)
        simulator.reset()
        with pytest.raises(ProviderAnswerLost, match="404"):
            await take(provider, call("sim:1000:50", resume=FIRST_ID))
    assert simulator.calls == {}


async def test_an_answer_that_somebody_cancelled_is_lost(simulator: Simulator) -> None:
    async with keeping(simulator.url) as provider:
        await take(provider, call("sim:1000:50"), characters=5)
        await until(lambda: endings(simulator) == ["cancelled"])
        with pytest.raises(ProviderAnswerLost, match="cancelled"):
            await take(provider, call("sim:1000:50", resume=FIRST_ID))


async def test_an_answer_that_is_too_old_to_be_streamed_is_looked_at_until_it_has_ended(simulator: Simulator) -> None:
    simulator.kept.streamed_for = 0.0
    with Proxy.to(simulator.url) as proxy:
        async with keeping(proxy.through(simulator.url)) as provider:
            taking = asyncio.create_task(take(provider, call("sim:200:200")))
            await until(lambda: simulator.open_streams == 1)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(proxy.reset)
            pieces = await taking
            again = await take(provider, call("sim:200:200", resume=FIRST_ID))
    assert text_of(pieces) == text_of(again) == words(200)
    assert pieces[-1] == again[-1]
    assert simulator.calls == {"sim:200:200": 1}


async def test_a_server_that_does_not_stream_in_the_background_is_looked_at_until_the_answer_is_there() -> None:
    queued = refusal(200, {"id": "resp_1", "status": "queued", "output": []})
    async with raw_server(queued, queued, queued, answer(PLAIN)) as raw, keeping(raw.url) as provider:
        assert await generate(provider) == ("Hello", FINISHED)
    assert [request.head.split(" ")[0] for request in raw.requests] == ["POST", "GET", "GET", "GET"]


async def test_a_server_that_goes_away_while_it_is_looked_at_is_given_up_too() -> None:
    queued = refusal(200, {"id": "resp_1", "status": "queued"})
    too_old = refusal(400, {"error": {"message": "This response can no longer be streamed."}})
    away = refusal(503, {"error": {"message": "away"}})
    async with raw_server(queued, too_old, queued, queued, away) as raw, keeping(raw.url) as provider:
        with pytest.raises(ProviderUnavailable, match="away"):
            await generate(provider, replace(CALL, keep=lambda: True))
    assert len(raw.requests) == 4 + 6


async def test_calls_that_belong_together_have_one_key_and_what_another_key_asked_for_is_found() -> None:
    broken = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n" + events(
        CREATED, HELLO
    )

    async def breaks(writer: asyncio.StreamWriter) -> None:
        writer.write(broken)
        await writer.drain()
        writer.close()

    not_found = refusal(404, {"error": {"message": "Response with id 'resp_1' not found."}})
    answers = (breaks, answer(PLAIN), not_found, answer(PLAIN))
    async with raw_server(*answers) as raw, keeping(raw.url, ("one", "two")) as provider:
        assert await generate(provider) == ("Hello", FINISHED)
        assert await generate(provider, replace(CALL, resume="resp_1")) == ("Hello", FINISHED)
    keys = [re.findall("uthorization: Bearer (\\w+)", request.head)[0] for request in raw.requests]
    assert keys[0] == keys[1]
    assert set(keys[2:]) == {"one", "two"}


async def test_an_answer_is_read_on_with_the_key_that_asked_for_it_though_that_was_retired_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_file, "_LOOK", 0)
    file = tmp_path / "keys"
    file.write_text("one")
    not_found = refusal(404, {"error": {"message": "Response with id 'resp_1' not found."}})
    async with raw_server(answer(PLAIN), not_found, answer(PLAIN), answer(PLAIN)) as raw:
        config = ProviderConfig("local", "openai-responses", raw.url, background=True, api_keys_file=str(file))
        async with aclosing(OpenAIResponses(config)) as provider:
            assert await generate(provider) == ("Hello", FINISHED)
            file.write_text("two")
            assert await generate(provider, replace(CALL, resume="resp_1")) == ("Hello", FINISHED)
            assert await generate(provider) == ("Hello", FINISHED)
    keys = [re.findall("uthorization: Bearer (\\w+)", request.head)[0] for request in raw.requests]
    assert keys == ["one", "two", "one", "two"]


@dataclass
class Keeper:
    """Keeps one answer, and breaks off every stream of it after as many bytes as it is told to."""

    events: list[bytes]
    cuts: list[int]
    clean: bool
    asked: int = 0
    url: str = ""
    places: list[int] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if "GET" in head and "stream=true" not in head:
            writer.write(refusal(200, {"id": "resp_1", "status": "in_progress"}, "Connection: close"))
            writer.close()
            return
        self.asked += head.startswith("POST /v1/responses ")
        place = re.search("starting_after=(\\d+)", head)
        self.places.append(int(place[1]) if place else -1)
        body = b"".join(self.events[self.places[-1] + 1 :])
        cut = self.cuts.pop() if self.cuts else len(body)
        length = "" if self.clean else f"Content-Length: {len(body)}\r\n"
        connection = "Connection: close\r\n"
        writer.write(f"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\n{connection}{length}\r\n".encode())
        writer.write(body[:cut])
        await writer.drain()
        writer.close()


def kept_events(texts: list[str]) -> list[bytes]:
    said: list[dict[str, Any]] = [{"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}}]
    said += [{"type": "response.output_text.delta", "delta": text, "output_index": 0} for text in texts]
    said.append({"type": "response.completed", "response": {"id": "resp_1", "status": "completed", "model": "m-1"}})
    numbered = [{**each, "sequence_number": number} for number, each in enumerate(said)]
    return [f"event: e\ndata: {json.dumps(each, ensure_ascii=False)}\n\n".encode() for each in numbered]


TEXTS = ["Hel", "lo ", "日本", "語 🙂", "\n\n", "end"]
EVENTS = kept_events(TEXTS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(len(EVENTS[0]), len(b"".join(EVENTS)) - 2), max_size=6), st.booleans())
def test_an_answer_whose_streams_are_cut_anywhere_is_the_same_text_asked_for_once(cuts: list[int], clean: bool) -> None:
    """`clean`: by a connection that ends as if that were the end of the answer."""

    async def main() -> None:
        keeper = Keeper(EVENTS, list(cuts), clean)
        server = await asyncio.start_server(keeper.serve, "127.0.0.1", 0)
        async with keeping(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1") as provider:
            pieces = await take(provider, CALL)
        server.close()
        assert text_of(pieces) == "".join(TEXTS)
        assert [type(piece) for piece in pieces if not isinstance(piece, TextDelta)] == [Opened, Resumable, Finished]
        assert keeper.asked == 1
        assert keeper.places == sorted(keeper.places)

    asyncio.run(main())


# How it is configured.


def test_only_a_kind_that_keeps_answers_may_have_background() -> None:
    with pytest.raises(ConfigurationError, match="only kind openai-responses"):
        build(ProviderConfig("local", "openai", "http://x/v1", background=True))
    build(ProviderConfig("local", "openai-responses", "http://x/v1", background=True))


def test_background_is_read_from_the_settings() -> None:
    entry = {"kind": "openai-responses", "base_url": "http://x/v1"}
    settings = Settings(_env_file=None, providers=json.dumps({"a": entry | {"background": True}, "b": entry}))
    configs = provider_configs(settings)
    assert (configs["a"].background, configs["b"].background) == (True, False)
