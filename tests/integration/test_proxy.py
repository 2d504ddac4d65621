"""The proxy that other tests put between processes does what they count on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy import Proxy

DEADLINE = 10
SILENCE = 0.3


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Before a server that says again what it is told."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        with Proxy(*server.sockets[0].getsockname()) as proxy:
            yield proxy


class Line:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def through(cls, proxy: Proxy) -> Line:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    @classmethod
    async def answered(cls, proxy: Proxy, data: bytes) -> Line:
        """A connection on which the server has said again what it was told."""
        line = await cls.through(proxy)
        line.say(data)
        assert await line.hear(len(data)) == data
        return line

    def say(self, data: bytes) -> None:
        self._writer.write(data)

    async def hear(self, size: int) -> bytes:
        async with asyncio.timeout(DEADLINE):
            return await self._reader.readexactly(size)

    async def dropped(self) -> None:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await self.hear(1)


async def test_all_bytes_come_through(proxy: Proxy) -> None:
    await Line.answered(proxy, bytes(range(256)) * 20_000)


async def test_a_cut_drops_connections_and_refuses_new_ones_until_it_is_mended(proxy: Proxy) -> None:
    line = await Line.answered(proxy, b"a")
    proxy.cut()
    await line.dropped()
    with pytest.raises(ConnectionRefusedError):
        await Line.through(proxy)
    proxy.mend()
    await Line.answered(proxy, b"b")


async def test_a_reset_drops_connections_and_takes_new_ones(proxy: Proxy) -> None:
    line = await Line.answered(proxy, b"a")
    proxy.reset()
    await line.dropped()
    await Line.answered(proxy, b"b")


async def test_what_a_stall_held_comes_through_when_it_is_mended(proxy: Proxy) -> None:
    before = await Line.answered(proxy, b"a")
    proxy.stall()
    meanwhile = await Line.through(proxy)
    before.say(b"b")
    meanwhile.say(b"c")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(before.hear(1), SILENCE)
    proxy.mend()
    assert await before.hear(1) == b"b"
    assert await meanwhile.hear(1) == b"c"
