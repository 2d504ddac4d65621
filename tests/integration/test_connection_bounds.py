"""Clients that mean harm, or have lost their way, over real sockets: what is too much or too late ends in bounds."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from caller import Caller
from stack import Stack

DEADLINE = 60
MAX_HEAD = 4096
CONNECTIONS = 20
ASK = b"GET /healthz HTTP/1.1\r\nHost: runs.test\r\n\r\n"
POST = b"POST /v1/runs HTTP/1.1\r\nHost: runs.test\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return json.loads(self.body)["error"]["code"]


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def drip(self, data: bytes, pause: float) -> None:
        """Send it again and again, until it is taken no more."""
        try:
            while True:
                await self.send(data)
                await asyncio.sleep(pause)
        except OSError:
            pass

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        parts = []
        try:
            async with asyncio.timeout(DEADLINE):
                while part := await self._reader.read(65536):
                    parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)

    async def until(self, mark: bytes) -> None:
        async with asyncio.timeout(DEADLINE):
            await self._reader.readuntil(mark)

    async def answer(self) -> Answer:
        async with asyncio.timeout(DEADLINE):
            head = await self._reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().strip().splitlines()
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(int(first.split()[1]), headers, body)

    def close(self) -> None:
        self._writer.transport.abort()


class Server(NamedTuple):
    url: str

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        place = urlsplit(self.url)
        connection = Connection(*await asyncio.open_connection(place.hostname, place.port))
        try:
            yield connection
        finally:
            connection.close()

    async def refused(self, code: str) -> int:
        """How many requests it has refused for that."""
        async with httpx.AsyncClient(base_url=self.url, timeout=DEADLINE) as client:
            figures = (await client.get("/metrics")).text
        found = re.search(rf'^runstream_requests_refused_total{{code="{code}"}} (\d+)', figures, re.MULTILINE)
        return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def strict(stack: Stack) -> Iterator[Server]:
    """Small bounds, and a second for a request to arrive."""
    api = stack.start_api(max_head=str(MAX_HEAD), request_timeout="1", max_connections=str(CONNECTIONS))
    yield Server(api.url)
    stack.kill(api)


def headers(count: int, size: int = 1) -> bytes:
    return b"".join(b"x-%d: %b\r\n" % (number, b"a" * size) for number in range(count))


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nx: " + b"a" * MAX_HEAD + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + headers(8, 600) + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + headers(101) + b"\r\n",
        b"GET /healthz?" + b"a" * MAX_HEAD + b" HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * MAX_HEAD,
    ],
    ids=["one large header", "many headers", "too many headers", "a long address", "an address without end"],
)
async def test_a_head_that_is_too_large_is_refused_and_the_connection_closed(strict: Server, head: bytes) -> None:
    async with strict.connect() as connection:
        await connection.send(head)
        answer = await connection.answer()
        assert (answer.status, answer.code) == (431, "head_too_large")
        assert answer.headers["x-request-id"] == json.loads(answer.body)["error"]["request_id"]
        assert answer.headers["cache-control"] == "no-store"
        assert await connection.rest() == b""


async def test_a_header_without_end_is_given_up_as_it_comes(strict: Server) -> None:
    before = await strict.refused("head_too_large")
    async with strict.connect() as connection:
        await connection.send(ASK[:-2] + b"x: ")
        await connection.drip(b"a" * 1000, pause=0)
    assert await strict.refused("head_too_large") == before + 1


async def test_a_head_within_the_bounds_is_served_also_after_a_large_body_on_the_same_connection(
    strict: Server,
) -> None:
    body = b'"' + b"a" * 200_000 + b'"'
    post = POST.replace(b"100", b"%d" % len(body))
    async with strict.connect() as connection:
        await connection.send(post + body + ASK[:-2] + headers(90) + b"\r\n")
        assert (await connection.answer()).status in {401, 422}
        assert (await connection.answer()).status == 200


@pytest.mark.parametrize(
    ("begun", "more", "status"),
    [
        (b"", b"", None),
        (b"", b"\r\n", None),
        (ASK[:-2] + b"x: ", b"a", 408),
        (POST, b"1", 408),
        (POST.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked"), b"1\r\n1\r\n", 408),
    ],
    ids=["nothing", "empty lines", "a slow head", "a slow body", "slow chunks"],
)
async def test_a_request_that_does_not_arrive_in_time_ends(
    strict: Server, begun: bytes, more: bytes, status: int | None
) -> None:
    async with strict.connect() as connection:
        await connection.send(begun)
        dripping = asyncio.create_task(connection.drip(more, pause=0.2))
        if status is None:
            assert await connection.rest() == b""
        else:
            answer = await connection.answer()
            assert (answer.status, answer.code) == (status, "request_timeout")
            assert answer.headers["connection"] == "close"
        dripping.cancel()


async def test_a_connection_is_not_kept_by_empty_lines_after_an_answer(strict: Server) -> None:
    async with strict.connect() as connection:
        await connection.send(ASK)
        assert (await connection.answer()).status == 200
        dripping = asyncio.create_task(connection.drip(b"\r\n", pause=0.2))
        assert await connection.rest() == b""
        dripping.cancel()


async def test_a_body_that_goes_on_after_it_was_refused_ends_without_a_second_answer(strict: Server) -> None:
    async with strict.connect() as connection:
        await connection.send(POST.replace(b"100", b"100000000"))
        answer = await connection.answer()
        assert (answer.status, answer.code) == (413, "payload_too_large")
        dripping = asyncio.create_task(connection.drip(b"1", pause=0.2))
        assert await connection.rest() == b""
        dripping.cancel()


async def test_a_stream_that_lasts_longer_than_a_request_may_take_to_arrive_goes_on(
    strict: Server, stack: Stack
) -> None:
    async with Caller.of(stack, "tenant-of-bounds", "ada", url=strict.url) as caller:
        run_id = (await caller.post(model="sim:40:20")).json()["id"]
        frames = (await caller.http.get(f"/v1/runs/{run_id}/events")).text
    assert "event: run.completed" in frames


async def test_requests_that_are_sent_ahead_are_answered_in_order_as_long_as_they_are_few(strict: Server) -> None:
    paths = [b"/healthz", b"/nowhere", b"/v1/runs"] * 5
    async with strict.connect() as connection:
        await connection.send(b"".join(ASK.replace(b"/healthz", path) for path in paths))
        assert [(await connection.answer()).status for _ in paths] == [200, 404, 401] * 5


async def test_a_flood_of_requests_sent_ahead_closes_the_connection(strict: Server) -> None:
    async with strict.connect() as connection:
        await connection.send(ASK * 2000)
        assert (await connection.rest()).count(b"HTTP/1.1 ") < 2000


async def test_what_is_no_request_is_told_so(strict: Server) -> None:
    async with strict.connect() as connection:
        await connection.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        answer = await connection.answer()
        assert (answer.status, answer.code) == (400, "invalid_request")


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: +5\r\n",
        b"Transfer-Encoding: identity, xchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
    ],
)
async def test_a_request_whose_end_two_servers_could_see_in_two_places_is_refused(
    strict: Server, lengths: bytes
) -> None:
    async with strict.connect() as connection:
        await connection.send(b"POST /v1/runs HTTP/1.1\r\nHost: runs.test\r\n" + lengths + b"\r\n0\r\n\r\n" + ASK)
        answered = await connection.rest()
    assert answered.startswith(b"HTTP/1.1 400 ")
    assert answered.count(b"HTTP/1.1 ") == 1


async def test_what_is_no_request_does_not_get_into_the_answer_that_is_on_its_way(strict: Server, stack: Stack) -> None:
    async with Caller.of(stack, "tenant-of-bounds", "ada", url=strict.url) as caller:
        run_id = (await caller.post(model="sim:400:20")).json()["id"]
        key = caller.http.headers["authorization"].encode()
        async with strict.connect() as connection:
            path = f"/v1/runs/{run_id}/events".encode()
            ask = ASK.replace(b"/healthz", path).replace(b"\r\n\r\n", b"\r\nAuthorization: %b\r\n\r\n" % key)
            await connection.send(ask)
            await connection.until(b"run.started")
            await connection.send(b"\x00\x00\x00")
            rest = await connection.rest()
        await caller.http.post(f"/v1/runs/{run_id}/cancel")
    assert b"HTTP/1.1 400 " not in rest


async def test_more_connections_than_may_be_are_told_so_and_others_are_served_again_afterwards(strict: Server) -> None:
    async with AsyncExitStack() as held:
        opened = [await held.enter_async_context(strict.connect()) for _ in range(CONNECTIONS)]
        async with strict.connect() as one_more:
            await one_more.send(ASK)
            answer = await one_more.answer()
            assert (answer.status, answer.code) == (503, "too_many_connections")
        await opened[0].send(ASK)
        assert (await opened[0].answer()).status == 200
    async with asyncio.timeout(DEADLINE):
        while await strict.refused("too_many_connections") == 0:
            await asyncio.sleep(0.05)


async def test_far_more_connections_than_may_be_are_closed_without_a_word(strict: Server) -> None:
    async with AsyncExitStack() as held:
        opened = [await held.enter_async_context(strict.connect()) for _ in range(2 * CONNECTIONS)]
        assert b"too_many_connections" in await opened[-1].rest()
