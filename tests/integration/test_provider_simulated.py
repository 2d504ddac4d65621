"""The simulator as its users meet it: over HTTP, by the names of its models."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from runstream.providers.simulated import Simulator, demo, unicode_token, word

MESSAGES = [{"role": "user", "content": "one two three"}]


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": "Bearer any"}
    async with httpx.AsyncClient(base_url=simulator.url, headers=headers, timeout=20) as client:
        yield client


async def ask(client: httpx.AsyncClient, model: str, **fields: Any) -> httpx.Response:
    return await client.post("/chat/completions", json={"model": model, "messages": MESSAGES, **fields})


async def chunks(client: httpx.AsyncClient, model: str, **fields: Any) -> list[dict[str, Any]]:
    response = await ask(client, model, stream=True, **fields)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def text_of(sent: list[dict[str, Any]]) -> str:
    return "".join(delta.get("content", "") for delta in deltas(sent))


def deltas(sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in sent for choice in chunk["choices"]]


async def get(simulator: Simulator, path: str, method: str = "GET") -> dict[str, Any]:
    async with httpx.AsyncClient() as client:
        response = await client.request(method, simulator.url.removesuffix("/v1") + path)
    answer: dict[str, Any] = response.json()
    return answer


async def test_a_stream_is_chunks_a_finish_usage_if_asked_for_and_the_end_mark(client: httpx.AsyncClient) -> None:
    plain = await chunks(client, "sim:3")
    assert text_of(plain) == "w0 w1 w2 "
    assert plain[-1]["choices"][0]["finish_reason"] == "stop"
    counted = await chunks(client, "sim:3", stream_options={"include_usage": True})
    assert counted[-1]["choices"] == []
    assert counted[-1]["usage"]["prompt_tokens"] == 3
    assert counted[-1]["usage"]["completion_tokens"] == 3


async def test_an_answer_that_is_not_streamed_is_the_same_text(client: httpx.AsyncClient) -> None:
    body = (await ask(client, "sim:3")).json()
    assert body["choices"][0]["message"]["content"] == "w0 w1 w2 "
    assert body["usage"]["total_tokens"] == 6


async def test_tokens_keep_their_pace(client: httpx.AsyncClient) -> None:
    started = time.monotonic()
    await chunks(client, "sim:11:100:100")
    assert time.monotonic() - started >= 0.2


async def test_clock_tokens_are_times_of_the_senders_monotonic_clock(client: httpx.AsyncClient) -> None:
    before = time.monotonic_ns() // 1000
    times = [int(stamp) for stamp in text_of(await chunks(client, "clock:20:200")).split()]
    assert len(times) == 20
    after = time.monotonic_ns() // 1000
    assert before <= times[0] < times[-1] <= after
    assert times == sorted(times)


async def test_unicode_tokens_hold_what_breaks_naive_code(client: httpx.AsyncClient) -> None:
    text = text_of(await chunks(client, "unicode:30"))
    assert text == "".join(map(unicode_token, range(30)))
    for trap in ("\u0301", "🙂", "\u200d", "שלום", '"', "\\", "\n", "\u2028"):
        assert trap in text


async def test_reasoning_comes_before_the_text_in_a_field_of_its_own(client: httpx.AsyncClient) -> None:
    sent = await chunks(client, "reasoning:2:3")
    assert deltas(sent)[:2] == [{"reasoning_content": "r0 "}, {"reasoning_content": "r1 "}]
    assert text_of(sent) == "w0 w1 w2 "
    assert sent[-1]["choices"][0]["finish_reason"] == "stop"
    message = (await ask(client, "reasoning:2:3")).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "w0 w1 w2 ", "reasoning_content": "r0 r1 "}


async def test_tool_calls_come_in_turn_each_opened_once_and_with_its_arguments_in_pieces(
    client: httpx.AsyncClient,
) -> None:
    sent = await chunks(client, "tools:2:1")
    assert text_of(sent) == "w0 "
    assert sent[-1]["choices"][0]["finish_reason"] == "tool_calls"
    pieces = [delta["tool_calls"][0] for delta in deltas(sent) if "tool_calls" in delta]
    opened = [piece for piece in pieces if "id" in piece]
    assert opened == [
        {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
        for index, name in enumerate(["look_up", "write_down"])
    ]
    arguments = [piece["function"]["arguments"] for piece in pieces if "id" not in piece]
    assert arguments == 2 * ['{"text":"', "w0 ", "w1 ", '"}']
    assert [piece["index"] for piece in pieces] == 5 * [0] + 5 * [1]


async def test_tool_calls_of_an_answer_that_is_not_streamed_are_whole(client: httpx.AsyncClient) -> None:
    choice = (await ask(client, "tools:2")).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    calls = choice["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["look_up", "write_down"]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == 2 * [{"text": "w0 w1 "}]


async def test_limits_count_all_kinds_and_stop_sequences_are_looked_for_in_the_text(client: httpx.AsyncClient) -> None:
    limited = await chunks(client, "reasoning:2:3", max_tokens=3)
    assert (text_of(limited), limited[-1]["choices"][0]["finish_reason"]) == ("w0 ", "length")
    stopped = await chunks(client, "reasoning:2:3", stop=["r", "w1"])
    assert (text_of(stopped), stopped[-1]["choices"][0]["finish_reason"]) == ("w0 ", "stop")
    assert len([delta for delta in deltas(stopped) if "reasoning_content" in delta]) == 2
    cut = await chunks(client, "tools:2", max_tokens=3)
    assert cut[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({"max_tokens": 2}, "w0 w1 ", "length"),
        ({"max_completion_tokens": 2}, "w0 w1 ", "length"),
        ({"max_tokens": 5}, "w0 w1 w2 w3 w4 ", "stop"),
        ({"stop": "w3"}, "w0 w1 w2 ", "stop"),
        ({"stop": ["3", "1 w"]}, "w0 w", "stop"),
        ({"stop": ["absent"]}, "w0 w1 w2 w3 w4 ", "stop"),
        ({"stop": None, "max_tokens": None}, "w0 w1 w2 w3 w4 ", "stop"),
        ({"stop": ["w4"], "max_tokens": 3}, "w0 w1 w2 ", "length"),
    ],
)
async def test_limits_and_stop_sequences_are_honoured(
    client: httpx.AsyncClient, fields: dict[str, Any], text: str, reason: str
) -> None:
    sent = await chunks(client, "sim:5", **fields)
    assert text_of(sent) == text
    assert sent[-1]["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "JSON"),
        (b"[]", "list of messages"),
        (b'{"model": "sim:3"}', "list of messages"),
        (b'{"model": "sim:x", "messages": []}', "sim:x"),
        (b'{"model": "sim:1:2:3:4", "messages": []}', "sim:1:2:3:4"),
        (b'{"model": "sim:inf", "messages": []}', "sim:inf"),
        (b'{"model": "sim", "messages": []}', "'sim'"),
        (b'{"model": "sim:3", "messages": [], "stop": [1]}', "stop"),
    ],
)
async def test_what_cannot_be_understood_is_refused_and_the_next_request_is_answered(
    client: httpx.AsyncClient, body: bytes, message: str
) -> None:
    refused = await client.post("/chat/completions", content=body)
    assert refused.status_code == 400
    assert message in refused.json()["error"]["message"] or "JSON" in message
    assert (await ask(client, "sim:1")).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", {"model": "sim:1", "messages": [], "stop": 5}),
        ("/messages", {"model": "sim:1", "messages": ["hello"], "max_tokens": 5}),
        ("/responses", {"model": "sim:1", "input": [{"type": "message"}]}),
        ("/moderations", {"model": "status:none", "input": ["hello"]}),
        ("/moderations", {"model": "flags:a:soon", "input": ["hello"]}),
    ],
)
async def test_what_has_another_shape_than_its_protocol_is_refused(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    refused = await client.post(path, json=body, headers={"anthropic-version": "2023-06-01"}, timeout=5)
    assert refused.status_code == 400


async def test_a_place_in_an_answer_that_is_no_number_is_refused(client: httpx.AsyncClient) -> None:
    place = {"stream": "true", "starting_after": "there"}
    assert (await client.get("/responses/resp_sim1", params=place, timeout=5)).status_code == 400


@pytest.mark.parametrize("key", [None, "Bearer bad", "Bearer", "Basic eDp5"])
async def test_a_key_is_asked_for(client: httpx.AsyncClient, key: str | None) -> None:
    del client.headers["Authorization"]
    headers = {"Authorization": key} if key else {}
    for request in (client.get("/models", headers=headers), client.post("/chat/completions", headers=headers)):
        assert (await request).status_code == 401


async def test_another_address_is_not_found(client: httpx.AsyncClient) -> None:
    assert (await client.get("/nothing")).status_code == 404


async def test_flaky_fails_anew_for_other_messages_and_after_a_reset(
    client: httpx.AsyncClient, simulator: Simulator
) -> None:
    async def statuses() -> list[int]:
        return [(await ask(client, "flaky:1:2")).status_code for _ in range(3)]

    assert await statuses() == [503, 200, 200]
    other = [{"role": "user", "content": "other"}]
    assert (await ask(client, "flaky:1:2", messages=other)).status_code == 503
    await get(simulator, "/reset", "POST")
    assert await statuses() == [503, 200, 200]


async def test_statistics_count_calls_streams_and_clients_that_left(
    client: httpx.AsyncClient, simulator: Simulator
) -> None:
    await ask(client, "sim:1")
    await ask(client, "sim:1", stream=True)
    await ask(client, "status:500")
    async with client.stream(
        "POST", "/chat/completions", json={"model": "hang:1", "messages": MESSAGES, "stream": True}
    ):
        stats = await get(simulator, "/stats")
        assert stats["calls"] == {"sim:1": 2, "status:500": 1, "hang:1": 1}
        assert (stats["open_streams"], stats["closed_by_client"]) == (1, 0)
    async with asyncio.timeout(20):
        while (stats := await get(simulator, "/stats"))["open_streams"]:
            await asyncio.sleep(0.005)
    assert stats["closed_by_client"] == 1
    assert (await get(simulator, "/reset", "POST"))["calls"] == {}


async def test_any_other_model_answers_in_prose_that_repeats_a_bit_of_the_question(client: httpx.AsyncClient) -> None:
    question = "Why is the sky\nblue? " + "Tell me at length. " * 50
    messages = [*MESSAGES, {"role": "user", "content": question}, {"role": "assistant", "content": "Well"}]
    text = text_of(await chunks(client, "gpt-4o-mini", messages=messages, max_tokens=25))
    assert text.startswith("You wrote: “Why is the sky blue? Tell me at length.")
    whole = "".join(demo.answer(question))
    assert whole.startswith(text)
    assert len(whole) < 3000
    assert whole.count("\n\n") >= 3
    assert "{" not in whole


@pytest.mark.parametrize("messages", [[], [{"role": "user"}], [3], [{"role": "user", "content": [{"type": "text"}]}]])
async def test_prose_needs_no_question(client: httpx.AsyncClient, messages: list[Any]) -> None:
    sent = await chunks(client, "llama3:8b", messages=messages, max_tokens=3)
    assert text_of(sent)


async def test_the_command_prints_its_url_and_no_prompt() -> None:
    program = "from runstream.providers import simulated; simulated.serve('127.0.0.1', 0)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
        async with httpx.AsyncClient(base_url=line.split()[-1], headers={"Authorization": "Bearer k"}) as client:
            assert (await ask(client, "sim:2")).status_code == 200
            assert (await ask(client, "sim:x")).status_code == 400
    finally:
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            rest = await process.stdout.read()
            status = await process.wait()
    assert line.startswith("The simulated provider listens at http://127.0.0.1:")
    assert (rest, status) == (b"", 0)


def test_words_are_known_beforehand() -> None:
    assert [word(0), word(41)] == ["w0 ", "w41 "]


async def test_each_call_is_recorded_with_what_was_asked_and_how_it_ended(
    client: httpx.AsyncClient, simulator: Simulator
) -> None:
    await ask(client, "sim:3", stream=True)
    await ask(client, "status:500", messages=[{"role": "user", "content": "a" * 1000}])
    with pytest.raises(httpx.RemoteProtocolError):
        await ask(client, "cut:2", stream=True)
    async with client.stream(
        "POST", "/chat/completions", json={"model": "hang:1", "messages": MESSAGES, "stream": True}
    ):
        record = await get(simulator, "/calls")
        assert record["calls"][-1]["ending"] == "open"
        assert record["calls"][-1]["ended"] is None
    async with asyncio.timeout(20):
        while (record := await get(simulator, "/calls"))["calls"][-1]["ending"] == "open":
            await asyncio.sleep(0.005)
    assert record["made"] == 4
    assert [(call["model"], call["asked"], call["ending"], call["tokens"]) for call in record["calls"]] == [
        ("sim:3", "one two three", "finish", 3),
        ("status:500", "a" * 100, "refused", 0),
        ("cut:2", "one two three", "cut", 2),
        ("hang:1", "one two three", "closed", 1),
    ]
    assert all(call["began"] <= call["ended"] for call in record["calls"])


async def test_a_response_in_the_background_can_be_read_again_from_any_number(
    client: httpx.AsyncClient, simulator: Simulator
) -> None:
    asked = {"model": "sim:3", "input": MESSAGES, "stream": True, "background": True, "store": True}
    sent = (await client.post("/responses", json=asked)).text
    events = sent.removesuffix("\n\n").split("\n\n")
    assert [json.loads(event.partition("data: ")[2])["sequence_number"] for event in events] == [*range(len(events))]
    for number in range(-1, len(events)):
        place = {"stream": "true"} | ({"starting_after": str(number)} if number >= 0 else {})
        again = (await client.get("/responses/resp_sim1", params=place)).text
        assert again == "".join(f"{event}\n\n" for event in events[number + 1 :])
    whole = (await client.get("/responses/resp_sim1")).json()
    assert (whole["status"], whole["output"][0]["content"][0]["text"]) == ("completed", "w0 w1 w2 ")
    assert (await client.post("/responses/resp_sim1/cancel")).json() == whole
    assert (await client.get("/responses/resp_sim2")).status_code == 404
    assert simulator.calls == {"sim:3": 1}


async def test_a_response_in_the_background_that_nobody_reads_goes_on_until_it_is_cancelled(
    client: httpx.AsyncClient, simulator: Simulator
) -> None:
    asked = {"model": "sim:1000:100", "input": MESSAGES, "background": True}
    assert (await client.post("/responses", json=asked)).json()["status"] == "in_progress"
    async with asyncio.timeout(20):
        while simulator.record.told()["calls"][0]["ending"] == "open":
            await asyncio.sleep(0.05)
            assert (await client.post("/responses/resp_sim1/cancel")).json()["status"] == "cancelled"
    assert simulator.record.told()["calls"][0]["ending"] == "cancelled"


@pytest.mark.parametrize(
    "fields",
    [
        {"input": "text"},
        {"input": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        {"input": [{"type": "function_call", "name": "look"}]},
        {"stop": ["a"]},
        {"max_tokens": 3},
        {"background": True, "store": False},
        {"tools": [{"type": "function", "function": {"name": "look"}}]},
        {"text": {"format": {"type": "json_schema", "json_schema": {}}}},
    ],
)
async def test_a_response_is_asked_for_as_the_real_server_takes_it(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    asked = {"model": "sim:3", "input": MESSAGES}
    assert (await client.post("/responses", json=asked)).status_code == 200
    assert (await client.post("/responses", json=asked | fields)).status_code == 400


async def test_words_say_by_the_number_on_record_which_call_they_are_of(
    client: httpx.AsyncClient, simulator: Simulator
) -> None:
    texts = [text_of(await chunks(client, "sim:2:0@mine")) for _ in range(2)]
    numbers = [call["number"] for call in simulator.record.told()["calls"]]
    assert texts == [f"w0@{number} w1@{number} " for number in numbers]
    assert len(set(numbers)) == 2
    assert simulator.stats()["tokens"] == {"input": 6, "output": 4}


async def test_an_answer_of_any_kind_may_end_as_another_one_does(
    client: httpx.AsyncClient, simulator: Simulator
) -> None:
    number = simulator.answered + 1
    response = await ask(client, "tools:4+nofinish:4@mine", stream=True)
    sent = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]
    pieces = [piece["function"]["arguments"] for delta in deltas(sent) for piece in delta["tool_calls"]]
    assert "".join(pieces) == f'{{"text":"w0@{number} w1@{number} '


async def test_a_refusal_says_when_to_come_again_if_it_is_told_to(client: httpx.AsyncClient) -> None:
    said = [(await ask(client, model)).headers.get("retry-after") for model in ("status:429", "status:500:7")]
    assert said == ["1", "7"]
    assert "retry-after" not in (await ask(client, "status:429:0")).headers
    for key, retry_after in (("limited", "1"), ("limited-unsaid", None)):
        answer = await client.get("/models", headers={"Authorization": f"Bearer {key}"})
        assert (answer.status_code, answer.headers.get("retry-after")) == (429, retry_after)


async def test_a_page_and_an_answer_without_its_count_are_what_some_servers_send(client: httpx.AsyncClient) -> None:
    page = await ask(client, "page", stream=True)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html")
    assert all(
        "usage" not in chunk for chunk in await chunks(client, "uncounted:3", stream_options={"include_usage": True})
    )
