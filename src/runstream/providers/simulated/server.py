"""A running simulator, by itself or within another process."""

import asyncio
from contextlib import suppress
from typing import Any, Self

from runstream.providers.simulated.routes import Answering
from runstream.providers.simulated.state import State


def serve(host: str, port: int) -> None:
    """Serve until interrupted; prints the base URL, as a client needs it, once it listens."""
    with suppress(KeyboardInterrupt):
        _run(_serve(host, port))


def _run(main: Any) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


async def _serve(host: str, port: int) -> None:
    async with Simulator(host, port) as simulator:
        print(f"The simulated provider listens at {simulator.url}", flush=True)
        await asyncio.get_running_loop().create_future()


class Simulator(State):
    """A running simulator: `async with Simulator() as simulator: ... simulator.url`. Port 0 takes a free one."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__()
        self._host, self._port = host, port

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Answering(self), self._host, self._port, backlog=4096)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in list(self.clients):
            connection.abort()
        self.kept.forget()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The base URL that a provider takes, whatever its kind."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/v1"
