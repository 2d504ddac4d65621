"""A TCP proxy that a test puts between two processes, to cut, reset and stall what they say to each other."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self, cast
from urllib.parse import urlsplit

import uvloop

HOST = "127.0.0.1"
DEADLINE = 30
_RESET = struct.pack("ii", 1, 0)
"""Linger for no time: closing sends a reset at once, as a host that is gone answers."""


class Proxy:
    """`with Proxy.to(url) as proxy: ... proxy.through(url)`, or `with Proxy(host, port) as proxy: ... proxy.port`.

    It runs in a thread with a loop of its own, so it serves while the test blocks or awaits. Each method takes effect
    before it returns, and may be called from any thread.
    """

    def __init__(self, host: str, port: int) -> None:
        """Where connections are passed on to; nobody need listen there yet."""
        self.target = (host, port)
        self.stalled = False
        self._ends: set[_End] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._place = socket.socket()
        """Bound and never listening: keeps the port ours while connections to it are refused."""

    @classmethod
    def to(cls, url: str) -> Self:
        """A way to the server of this URL."""
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        return cls(parts.hostname, parts.port)

    def through(self, url: str) -> str:
        """The URL, by this way."""
        parts = urlsplit(url)
        account, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{account}{at}{HOST}:{self.port}").geturl()

    def __enter__(self) -> Self:
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind((HOST, 0))
        self.port: int = self._place.getsockname()[1]
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()
        self._place.close()

    def cut(self) -> None:
        """Drop all connections, and refuse new ones until `mend`."""
        self._do(self._cut)

    def reset(self) -> None:
        """Drop all connections, and go on accepting."""
        self._do(self._drop)

    def stall(self) -> None:
        """Let nothing through in either direction until `mend`; accept connections, and say nothing on them."""
        self._do(lambda: self._stall(True))

    def mend(self) -> None:
        """Go on as if nothing had been: what was held comes through."""
        self._do(self._mend)

    def _do(self, step: Callable[[], object]) -> None:
        async def run() -> None:
            answer = step()
            if asyncio.iscoroutine(answer):
                await answer

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(DEADLINE)

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._drop()

    async def _drop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        for end in list(self._ends):
            end.drop()
        while self._ends or self._tasks:
            await asyncio.sleep(0)

    def _stall(self, stalled: bool) -> None:
        self.stalled = stalled
        for end in list(self._ends):
            end.update()

    async def _mend(self) -> None:
        self._stall(False)
        if self._server is None:
            self._server = await self._loop.create_server(
                lambda: _End(self, accepted=True), HOST, self.port, reuse_address=True, backlog=4096
            )

    def opened(self, end: _End) -> None:
        self._ends.add(end)
        if end.accepted:
            task = self._loop.create_task(self._pass_on(end))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def closed(self, end: _End) -> None:
        self._ends.discard(end)

    async def _pass_on(self, end: _End) -> None:
        """Connect it to the target, once nothing is stalled."""
        try:
            while self.stalled:
                await asyncio.sleep(0.01)
            _, other = await self._loop.create_connection(lambda: _End(self, accepted=False), *self.target)
        except OSError:
            end.drop()
        else:
            end.join(other)


class _End(asyncio.Protocol):
    """One end of a connection; what it reads is written to `other`."""

    def __init__(self, proxy: Proxy, *, accepted: bool) -> None:
        self.accepted = accepted
        self._proxy = proxy
        self._other: _End | None = None
        self._early: list[bytes] = []
        """What came before there was an other end: uvloop reads once though it was told not to."""
        self._full = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._proxy.opened(self)
        self.update()

    def join(self, other: _End) -> None:
        """Say the one to the other what came before; where one is gone, the other goes too."""
        self._other, other._other = other, self
        for end, peer in ((self, other), (other, self)):
            if end._transport.is_closing():
                peer._transport.close()
            elif not peer._transport.is_closing():
                peer._transport.writelines(end._early)
        self.update()
        other.update()

    def update(self) -> None:
        """Read while what is read may be written."""
        if self._transport.is_closing():
            return
        if self._other is None or self._other._full or self._proxy.stalled:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def drop(self) -> None:
        with suppress(OSError):
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
        else:
            self._other._transport.write(data)

    def pause_writing(self) -> None:
        self._full = True
        if self._other is not None:
            self._other.update()

    def resume_writing(self) -> None:
        self._full = False
        if self._other is not None:
            self._other.update()

    def connection_lost(self, _: Exception | None) -> None:
        self._proxy.closed(self)
        if self._other is not None:
            self._other._transport.close()
