"""A receiver of webhooks: a server that notes what it is sent, and answers as it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook

from runstream.embedded.port import free_port

DEADLINE = 30
POLL = 0.01


@dataclass(frozen=True)
class Received:
    headers: dict[str, str]
    body: bytes
    break_off: Callable[[], None]
    end: asyncio.Event
    """Of the receiver."""

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def told(self) -> dict[str, Any]:
        return json.loads(self.body)

    def verified_by(self, secret: str) -> dict[str, Any]:
        """What it says. Raises WebhookVerificationError."""
        return Webhook(secret).verify(self.body, self.headers)


Behaviour = Callable[[Received], Awaitable[web.StreamResponse]]


@dataclass
class Receiver:
    port: int
    behave: Behaviour
    received: list[Received] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    end: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.received]

    async def until(self, count: int) -> list[Received]:
        """Wait until so many came."""
        async with asyncio.timeout(DEADLINE):
            while len(self.received) < count:
                await asyncio.sleep(POLL)
        return self.received

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(headers, await request.read(), request.transport.abort, self.end)
        self.received.append(received)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self.behave(received)
        finally:
            self.at_once -= 1


def status(code: int, **headers: str) -> Behaviour:
    async def answer(_: Received) -> web.StreamResponse:
        return web.Response(status=code, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


async def hang(received: Received) -> web.StreamResponse:
    await received.end.wait()
    return web.Response()


async def break_off(received: Received) -> web.StreamResponse:
    received.break_off()
    return web.Response()


@asynccontextmanager
async def receiving(behave: Behaviour | None = None, *, port: int | None = None) -> AsyncIterator[Receiver]:
    """One that is there; without a behaviour it takes everything."""
    receiver = Receiver(port or free_port(), behave or status(204))
    runner = web.ServerRunner(web.Server(receiver._handle), handler_cancellation=True, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", receiver.port).start()
        yield receiver
    finally:
        receiver.end.set()
        await runner.cleanup()
