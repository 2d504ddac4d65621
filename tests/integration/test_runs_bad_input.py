"""What cannot be accepted is refused with one clear sentence, and changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from caller import DEADLINE, Caller, body
from runstream.domain.ids import new_id

MEGABYTE = 1_000_000
SECRET = "do-not-repeat-me"


@pytest.fixture
async def refused(unworked: Caller) -> AsyncIterator[Caller]:
    """A caller for whom nothing may have been made when the test is over."""
    yield unworked
    assert await unworked.list() == []


def assert_refusal(answer, status, code=None, param=None):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "param", "request_id"}
    assert error["request_id"] == answer.headers["x-request-id"]
    assert error["message"].strip()
    assert "Value error" not in error["message"]
    assert SECRET not in answer.text
    if code is not None:
        assert error["code"] == code
    if param is not None:
        assert error["param"] == param


def chat(**fields):
    return {**body(prompt=SECRET), **fields}


def spoken(**fields):
    return chat(input={"messages": [{"role": "user", "content": SECRET}], **fields})


ARGUMENTS = "input.messages.0.tool_calls.0.function.arguments"


def tool(name="look_up", **fields):
    return {"type": "function", "function": {"name": name, **fields}}


def chosen(name):
    return {"type": "function", "function": {"name": name}}


def called(**fields):
    calls = [{"id": "a", "type": "function", "function": {"name": "b", "arguments": "{}"}}]
    return chat(input={"messages": [{"role": "assistant", "tool_calls": calls, **fields}]})


@pytest.mark.parametrize(
    ("request_body", "param"),
    [
        (chat(model=SECRET), "model"),
        (chat(model=""), "model"),
        (chat(model="sim:" + "1" * 300), "model"),
        (chat(model=7), "model"),
        (chat(feature=SECRET), "feature"),
        (chat(feature=None), "feature"),
        (chat(feature=["chat"]), "feature"),
        ({"input": {}}, "feature"),
        ({"feature": "chat"}, "input"),
        (chat(input=[SECRET]), "input"),
        (chat(input={}), "input.messages"),
        (chat(input={"messages": []}), "input.messages"),
        (chat(input={"messages": SECRET}), "input.messages"),
        (chat(input={"messages": [{"role": SECRET, "content": "x"}]}), "input.messages.0.role"),
        (chat(input={"messages": [{"role": "user"}]}), "input.messages.0.content"),
        (chat(input={"messages": [{"role": "user", "content": "x", SECRET[:5]: 1}]}), None),
        (chat(input={"messages": [{"role": "user", "content": []}]}), None),
        (chat(input={"messages": [{"role": "user", "content": [{"type": "video"}]}]}), None),
        (spoken(temperature=3), "input.temperature"),
        (spoken(temperature="hot"), "input.temperature"),
        (spoken(temperature=True), "input.temperature"),
        (spoken(max_output_tokens="1"), "input.max_output_tokens"),
        (spoken(max_output_tokens=0), "input.max_output_tokens"),
        (spoken(max_output_tokens=1.5), "input.max_output_tokens"),
        (spoken(stop=[]), "input.stop"),
        (spoken(stop=[""]), "input.stop.0"),
        (spoken(unheard_of=1), "input.unheard_of"),
        (spoken(response_format={"type": "xml"}), "input.response_format"),
        (spoken(tools=[]), "input.tools"),
        (spoken(tools=[tool()] * 129), "input.tools"),
        (spoken(tools=[{"type": "web_search"}]), "input.tools.0.type"),
        (spoken(tools=[tool("a b")]), "input.tools.0.function.name"),
        (spoken(tools=[tool("x" * 65)]), "input.tools.0.function.name"),
        (spoken(tools=[tool(parameters=["object"])]), "input.tools.0.function.parameters"),
        (spoken(tools=[tool(strict="yes")]), "input.tools.0.function.strict"),
        (spoken(tools=[tool()], tool_choice="always"), "input.tool_choice"),
        (spoken(tools=[tool()], tool_choice={"type": "function"}), "input.tool_choice"),
        (spoken(tools=[tool()], tool_choice=chosen("another")), "input.tool_choice"),
        (spoken(tool_choice="auto"), "input.tool_choice"),
        (spoken(reasoning_effort="extreme"), "input.reasoning_effort"),
        (chat(input={"messages": [{"role": "assistant"}]}), "input.messages.0.content"),
        (chat(input={"messages": [{"role": "user", "content": None}]}), "input.messages.0.content"),
        (chat(input={"messages": [{"role": "user", "content": 7}]}), "input.messages.0.content"),
        (chat(input={"messages": [{"role": "tool", "content": "x"}]}), "input.messages.0.tool_call_id"),
        (called(role="user", content="x"), "input.messages.0.tool_calls"),
        (called(tool_calls=[]), "input.messages.0.tool_calls"),
        (called(tool_call_id="a"), "input.messages.0.tool_call_id"),
        (called(tool_calls=[{"id": "a", "type": "function", "function": {"name": "b"}}]), ARGUMENTS),
        (called(tool_calls=[{"id": "", "type": "function", "function": {}}]), "input.messages.0.tool_calls.0.id"),
        (chat(unheard_of=1), "unheard_of"),
        (chat(metadata={"k": 1}), "metadata.k"),
        (chat(metadata={"k": "x" * 513}), "metadata.k"),
        (chat(metadata={f"k{n}": "" for n in range(33)}), "metadata"),
        (chat(metadata=[]), "metadata"),
        (chat(subject={"type": "ticket"}), "subject.id"),
        (chat(subject={"type": "ticket", "id": ""}), "subject.id"),
        (chat(subject={"type": "t" * 129, "id": "1"}), "subject.type"),
        (chat(subject="ticket"), "subject"),
        ([], None),
        ("chat", None),
        (None, None),
        (7, None),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict | list) else None,
)
async def test_a_value_that_is_not_allowed_is_named(refused, request_body, param):
    answer = await refused.http.post("/v1/runs", json=request_body)
    assert_refusal(answer, 422, "invalid_field", param)


async def post_raw(caller, content, content_type="application/json"):
    headers = {"Content-Type": content_type} if content_type else {}
    return await caller.http.post("/v1/runs", content=content, headers=headers)


VALID = json.dumps(body(prompt=SECRET)).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        VALID[:-1],
        VALID + b"}",
        VALID[:-1] + b",}",
        VALID.replace(b'"', b"'"),
        VALID.replace(b'"sim:5"', b"NaN"),
        VALID.replace(b'"sim:5"', b"Infinity"),
        b"\xef\xbb\xbf" + VALID,
        VALID.decode().encode("utf-16"),
        VALID.replace(b"do-not", b"\xff\xfe"),
        VALID.replace(b"do-not", b"\xed\xa0\x80"),
        VALID.replace(b"do-not", b"\\ud800"),
        VALID.replace(b"do-not", b"\\udc00\\ud800"),
        VALID.replace(b"do-not", b"\x00"),
        VALID.replace(b"do-not", b"a\nb"),
        SECRET.encode(),
    ],
    ids=lambda content: repr(content[:30] + b"..." + content[-30:]),
)
async def test_what_is_not_json_is_refused(refused, content):
    assert_refusal(await post_raw(refused, content), 400, "invalid_request")


@pytest.mark.parametrize(
    "request_body",
    [
        body(prompt="a\0b"),
        body("sim:5\0"),
        body(metadata={"k": "\0"}),
        body(metadata={"k\0": "v"}),
        body(subject={"type": "ticket", "id": "\0"}),
        {**body(), "feature": "chat\0"},
        {**body(), "\0": 1},
    ],
    ids=repr,
)
async def test_text_with_nul_is_refused_wherever_it_stands(refused, request_body):
    assert_refusal(await refused.http.post("/v1/runs", json=request_body), 400, "invalid_request")


async def test_text_that_only_looks_like_nul_is_kept(unworked):
    answer = await unworked.post(prompt="\\u0000", metadata={"k": "\\u0000"})
    assert answer.status_code == 202
    assert answer.json()["metadata"] == {"k": "\\u0000"}


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 400, str(2**64), str(-(2**63) - 1), "1e30"])
async def test_a_number_beyond_64_bits_is_refused(refused, number):
    for field in ("max_output_tokens", "temperature", "unheard_of"):
        content = json.dumps(spoken(**{field: 1})).replace(f'"{field}": 1', f'"{field}": {number}')
        answer = await post_raw(refused, content.encode())
        assert answer.status_code in {400, 422}
        assert_refusal(answer, answer.status_code)


@pytest.mark.parametrize("depth", [70, 1_000, 200_000])
async def test_a_body_that_is_nested_too_deep_is_refused(refused, depth):
    nested = b"[" * depth + b"]" * depth
    schema = json.dumps(spoken(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}))
    for content in (nested, schema.replace('"schema": {}', '"schema": {"a": ' + nested.decode() + "}").encode()):
        assert_refusal(await post_raw(refused, content), 400, "invalid_request")


async def test_a_schema_that_is_nested_as_schemas_are_is_kept(unworked):
    schema: dict = {"type": "string"}
    for _ in range(15):
        schema = {"type": "object", "properties": {"inner": schema}}
    described = {"name": "deep", "schema": schema, "strict": True}
    request = spoken(response_format={"type": "json_schema", "json_schema": described})
    assert (await unworked.http.post("/v1/runs", json=request)).status_code == 202


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "chunked"])
async def test_a_body_of_five_megabytes_is_refused(refused, chunked):
    content = json.dumps(body(prompt="x" * 5 * MEGABYTE)).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 65536):
            yield content[start : start + 65536]

    assert_refusal(await post_raw(refused, pieces() if chunked else content), 413, "payload_too_large")


async def test_a_body_just_within_the_limit_is_kept(unworked):
    content = json.dumps(body(prompt="x")).encode()
    room = MEGABYTE - len(content)
    assert (await post_raw(unworked, content + b" " * room)).status_code == 202
    assert_refusal(await post_raw(unworked, content + b" " * (room + 1)), 413)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
async def test_a_body_that_does_not_say_it_is_json_is_refused(refused, content_type):
    assert_refusal(await post_raw(refused, VALID, content_type), 415, "unsupported_media_type")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_json_may_be_written_in_other_letters(unworked, content_type):
    assert (await post_raw(unworked, VALID, content_type)).status_code == 202


@pytest.mark.parametrize("content_type", ["application/json", None])
async def test_no_body_at_all_is_refused(refused, content_type):
    assert_refusal(await post_raw(refused, b"", content_type), 422, "invalid_field")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("status=ended", "status"),
        ("status=", "status"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-01-01T00:00:00", "created_after"),
        ("created_before=2026-13-01T00:00:00Z", "created_before"),
        ("created_after=0001-01-01T00:00:00%2B14:00", "created_after"),
        ("created_before=9999-12-31T23:59:59-14:00", "created_before"),
        ("created_before=1700000000", "created_before"),
        ("created_before=inf", "created_before"),
        ("created_before=nan", "created_before"),
        ("user=a%00b", "user"),
        ("user=", "user"),
        ("user=" + "x" * 257, "user"),
        ("feature=%00", "feature"),
        ("subject_type=%00", "subject_type"),
        ("subject_id=%00", "subject_id"),
    ],
)
async def test_a_filter_that_cannot_be_is_named(refused, query, param):
    assert_refusal(await refused.http.get(f"/v1/runs?{query}"), 422, "invalid_field", param)


@pytest.mark.parametrize("cursor", ["", "x", "run_", "run_" + "Z" * 26, "run_" + "0" * 27, "%00", "%FF", "1-1"])
async def test_a_page_cursor_that_is_none_is_refused(refused, cursor):
    assert_refusal(await refused.http.get(f"/v1/runs?cursor={cursor}"), 400, "invalid_request", "cursor")


@pytest.mark.parametrize(
    "query",
    [
        "user=%FF",
        "user=%ED%A0%80",
        "subject_id=%F0%9F%99%82",
        "unheard_of=1",
        "created_before=0001-01-01T00:00:00Z",
        "created_after=9999-12-31T23:59:59Z",
    ],
)
async def test_a_filter_that_fits_nothing_finds_nothing(refused, query):
    answer = await refused.http.get(f"/v1/runs?{query}")
    assert (answer.status_code, answer.json()) == (200, {"data": [], "next": None})


@pytest.mark.parametrize("run_id", ["x", "run_", "run_%00", "%00", "%FF", "..%2F..", "run_" + "u" * 26, "r" * 5000])
async def test_an_id_that_cannot_be_one_is_not_found(refused, run_id):
    for method, rest in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        assert_refusal(await refused.http.request(method, f"/v1/runs/{run_id}{rest}"), 404, "not_found")


@pytest.mark.parametrize("wait", ["-1", "121", "x", "nan", "inf", "1e9", ""])
async def test_a_wait_that_cannot_be_is_named(refused, wait):
    assert_refusal(await refused.http.get(f"/v1/runs/{new_id('run')}?wait={wait}"), 422, "invalid_field", "wait")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/runs", {"GET", "POST"}),
        ("PUT", "/v1/runs/{run_id}", {"GET", "DELETE"}),
        ("POST", "/v1/runs/{run_id}/events", {"GET"}),
        ("GET", "/v1/runs/{run_id}/cancel", {"POST"}),
        ("POST", "/healthz", {"GET"}),
    ],
)
async def test_a_method_that_is_not_taken_is_refused_with_those_that_are(refused, method, path, allowed):
    answer = await refused.http.request(method, path.format(run_id=new_id("run")))
    assert_refusal(answer, 405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["/v1", "/v1/runs/", "/v1/runs/x/y", "/v2/runs", "//v1/runs", "/v1/runs%00"])
async def test_an_address_without_anything_is_not_found(refused, path):
    assert_refusal(await refused.http.get(path), 404, "not_found")


async def test_what_cannot_be_kept_is_refused_in_any_body(unworked):
    run_id = await unworked.create()
    for content, status in ((b"{", 400), (b'"\\u0000"', 400), (b"x" * 2 * MEGABYTE, 413)):
        headers = {"Content-Type": "application/json"}
        answer = await unworked.http.post(f"/v1/runs/{run_id}/cancel", content=content, headers=headers)
        assert_refusal(answer, status)
    assert (await unworked.get(run_id))["status"] == "queued"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\x00b\r\n\r\n",
        b"GET /v1/runs HTTP/1.1\r\nHost: x\r\nLast-Event-ID: \x00\r\n\r\n",
        b"GET /v1/runs\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60),
        b"GET / HTTP/9.9\r\n\r\n",
    ],
    ids=lambda request: repr(request[:60]),
)
async def test_what_is_not_http_is_refused_and_the_process_goes_on(unworked, request_bytes):
    port = urlsplit(str(unworked.http.base_url)).port
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes)
        answer = await reader.readline()
        writer.close()
    assert answer.split()[1:2] in ([b"400"], [b"401"])
    assert (await unworked.http.get("/healthz")).status_code == 200


async def test_a_body_that_breaks_off_makes_no_run(unworked):
    address = urlsplit(str(unworked.http.base_url))
    head = f"POST /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {unworked.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(VALID)}\r\n\r\n"
    async with asyncio.timeout(DEADLINE):
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(head.encode() + VALID[:-10])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert await unworked.list() == []
