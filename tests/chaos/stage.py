"""The processes, and a proxy for each connection between two of them."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import TypeVar
from urllib.parse import urlsplit

from tests.proxy import Proxy
from tests.stack import PROVIDER, PROVIDER_KEY, Process, Stack

from runstream.embedded import Postgres
from runstream.storage.migrate import upgrade

APIS, WORKERS = 2, 2
LEASE = 1.5
MAX_ATTEMPTS = 4
COUNTED = "tokens_per_month"
"""The setting of the tenant's limit that is looked at afterwards. Nothing comes near it."""
SETTINGS = {
    "lease": LEASE,
    "lease_interval": 0.4,
    "sweep_interval": 0.4,
    "max_attempts": MAX_ATTEMPTS,
    "retry_delays": "[0.2]",
    "heartbeat": 1,
    "connect_timeout": 2,
    "first_token_timeout": 3,
    "idle_timeout": 2,
    "run_timeout": 30,
    "redis_timeout": 1,
    "database_timeout": 3,
    "worker_grace": 1,
    "shutdown_grace": 2,
    "stream_ended_ttl": 20,
    "limits": json.dumps({"tenant": {COUNTED: 10**12, "concurrent_runs": 10**6, "requests_per_minute": 10**6}}),
}
"""Times are short, so that what takes seconds in production can happen often here."""

T = TypeVar("T")


class Place:
    """Where a process stands: another may follow it there, behind the same proxies."""

    def __init__(self, kind: str, number: int, links: dict[str, Proxy], front: Proxy | None) -> None:
        self.kind = kind
        self.name = f"{kind} {number}"
        self.links = links
        """To redis, to postgres and, of a worker, to the provider."""
        self.front = front
        """What clients connect to, of an API process."""
        self.process: Process
        self.busy = asyncio.Lock()
        """Held by a fault that is upon this process."""


class Stage:
    """`async with standing() as stage`. What blocks runs in threads; servers keep to one that lives as long."""

    def __init__(self, directory: Path, links: ExitStack) -> None:
        self.postgres = Postgres(directory / "postgres", durable=True)
        self.redis_busy = asyncio.Lock()
        self.postgres_busy = asyncio.Lock()
        self._directory = directory
        self._open = links
        self._servers = links.enter_context(ThreadPoolExecutor(1))

    async def start(self) -> None:
        await self.of_servers(self._start_servers)
        self.places = [
            *(self._place("api", number) for number in range(1, APIS + 1)),
            *(self._place("worker", number) for number in range(1, WORKERS + 1)),
        ]
        await asyncio.gather(*(self.occupy(place) for place in self.places))

    def _start_servers(self) -> None:
        self.postgres.start()
        self._open.callback(lambda: self._servers.submit(self.postgres.stop).result())
        upgrade(self.postgres.url)
        self.stack = Stack(self._directory, database_url=self.postgres.url, environment=SETTINGS)
        self._open.callback(lambda: self._servers.submit(self.stack.end).result())
        self.stack.start(apis=0, workers=0)

    @property
    def apis(self) -> list[Place]:
        return [place for place in self.places if place.kind == "api"]

    @property
    def workers(self) -> list[Place]:
        return [place for place in self.places if place.kind == "worker"]

    @property
    def urls(self) -> list[str]:
        """Where clients reach the API processes, whichever stand there."""
        return [f"http://127.0.0.1:{place.front.port}" for place in self.apis if place.front]

    async def of_servers(self, call: Callable[[], T]) -> T:
        """Start, stop or kill Postgres or Valkey."""
        return await asyncio.get_running_loop().run_in_executor(self._servers, call)

    async def occupy(self, place: Place) -> None:
        """Start a process there."""
        given = self._environment(place)
        if place.front is None:
            place.process = await asyncio.to_thread(self.stack.start_worker, **given)
        else:
            api = await asyncio.to_thread(self.stack.launch_api, **given)
            place.process = api
            place.front.target = _address(api.url)

    async def kill(self, place: Place) -> None:
        await asyncio.to_thread(self.stack.kill, place.process)

    def links_of(self, name: str) -> list[Proxy]:
        """Every process's link to it."""
        return [place.links[name] for place in self.places if name in place.links]

    @asynccontextmanager
    async def one_of(self, places: list[Place], random: Random) -> AsyncIterator[Place]:
        """One that no other fault is upon, for as long as this one is."""
        place = random.choice([place for place in places if not place.busy.locked()] or places)
        async with place.busy:
            yield place

    def _place(self, kind: str, number: int) -> Place:
        targets = {"redis": self.stack.redis_url, "postgres": self.postgres.url}
        if kind == "worker":
            targets["provider"] = self.stack.provider_url
        links = {name: self._open.enter_context(Proxy.to(url)) for name, url in targets.items()}
        # Its target is not known before a process stands there.
        front = self._open.enter_context(Proxy("127.0.0.1", 0)) if kind == "api" else None
        return Place(kind, number, links, front)

    def _environment(self, place: Place) -> dict[str, str]:
        given = {
            "redis_url": place.links["redis"].through(self.stack.redis_url),
            "database_url": place.links["postgres"].through(self.postgres.url),
        }
        if "provider" in place.links:
            url = place.links["provider"].through(self.stack.provider_url)
            given["providers"] = json.dumps({PROVIDER: {"kind": "openai", "base_url": url, "api_keys": [PROVIDER_KEY]}})
        return given


@asynccontextmanager
async def standing(keep: Path | None = None) -> AsyncIterator[Stage]:
    """In a temporary directory, or in `keep`."""
    with working_directory(keep) as directory, ExitStack() as links:
        stage = Stage(directory, links)
        try:
            await stage.start()
            yield stage
        finally:
            await asyncio.to_thread(links.close)


@contextmanager
def working_directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir()
        keep.chmod(0o711)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="runstream-chaos-") as name:
        Path(name).chmod(0o711)  # Postgres, which will not run as root, must be able to reach its data
        yield Path(name)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port
