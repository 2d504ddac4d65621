"""The systems that are compared, and how each is started: fresh for every measurement, on emptied services."""

import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import orjson
from tests.bench.clients import Client, DirectClient, NaiveClient, ResumableClient, RunstreamClient
from tests.bench.load import Address
from tests.bench.processes import Launcher, SystemFailed, free_port
from tests.bench.services import Services

ROOT = Path(__file__).parents[2]
NODE_PACKAGES = ("resumable-stream@2", "redis@4")


class Unavailable(Exception):
    """A system that cannot be run on this computer; says why."""


@dataclass(frozen=True)
class Bench:
    """What all systems are given."""

    services: Services
    launcher: Launcher
    provider_port: int
    provider_process: int

    @property
    def provider_url(self) -> str:
        return f"http://127.0.0.1:{self.provider_port}"


@dataclass(frozen=True)
class Running:
    """A started system: how it is spoken to, its own processes, and the one among them that holds readers."""

    client: Client
    processes: tuple[int, ...]
    api: int


class System(Protocol):
    name: str
    title: str
    holds_readers: bool

    async def prepare(self, bench: Bench) -> None:
        """Whatever is done once, before any measurement. Raises Unavailable."""

    def running(self, bench: Bench) -> AbstractAsyncContextManager[Running]:
        """The system, ready to serve."""


class Direct:
    """The provider alone: what no system can be better than."""

    name, title, holds_readers = "direct", "provider alone", False

    async def prepare(self, bench: Bench) -> None:
        return None

    @asynccontextmanager
    async def running(self, bench: Bench) -> AsyncIterator[Running]:
        client = DirectClient(Address(bench.provider_port))
        yield Running(client, (bench.provider_process,), bench.provider_process)


class Resumable:
    name, title, holds_readers = "resumable", "resumable-stream", True

    async def prepare(self, bench: Bench) -> None:
        """Install the packages, once for all benchmarks, in the user's cache."""
        for program in ("node", "npm"):
            if not shutil.which(program):
                raise Unavailable(f"{program} is not installed")
        self.folder = cache_folder() / "node"
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / "node_modules" / "resumable-stream").is_dir():
            return
        install = ("npm", "install", "--prefix", str(self.folder), "--no-audit", "--no-fund", *NODE_PACKAGES)
        try:
            await bench.launcher.output("npm install", install, {})
        except SystemFailed as failure:
            raise Unavailable(f"npm could not install {' and '.join(NODE_PACKAGES)}") from failure

    @asynccontextmanager
    async def running(self, bench: Bench) -> AsyncIterator[Running]:
        port = free_port()
        command = ("node", str(Path(__file__).with_name("resumable.mjs")), str(port), bench.provider_url)
        env = {"REDIS_URL": bench.services.redis_url}
        async with bench.launcher.running("resumable", command, env, port=port, cwd=self.folder) as server:
            yield Running(ResumableClient(Address(port)), (server.pid,), server.pid)


class Naive:
    name, title, holds_readers = "naive", "naive design", True

    async def prepare(self, bench: Bench) -> None:
        return None

    @asynccontextmanager
    async def running(self, bench: Bench) -> AsyncIterator[Running]:
        port = free_port()
        python = (sys.executable, "-m")
        serve = (*python, "uvicorn", "tests.bench.naive:app", "--port", str(port), "--no-access-log")
        work = (*python, "arq", "tests.bench.naive.WorkerSettings")
        async with AsyncExitStack() as stack:
            env = {
                "BENCH_DATABASE_URL": await stack.enter_async_context(bench.services.database()),
                "BENCH_REDIS_URL": bench.services.redis_url,
                "BENCH_PROVIDER_URL": bench.provider_url,
                "PYTHONPATH": str(ROOT),
            }
            launch = bench.launcher.running
            worker = await stack.enter_async_context(launch("naive-worker", work, env))
            api = await stack.enter_async_context(launch("naive-api", serve, env, port=port))
            yield Running(NaiveClient(Address(port)), (api.pid, worker.pid), api.pid)


class Runstream:
    """One API process and one worker process, as an operator starts them."""

    name, title, holds_readers = "runstream", "Runstream", True
    template = "bench_runstream"
    asked: Mapping[str, Any] = MappingProxyType({})

    async def prepare(self, bench: Bench) -> None:
        """Migrate one database and make a key in it; every measurement gets a copy."""
        await bench.services.execute(f'CREATE DATABASE "{self.template}"')
        env = self.environment(bench, bench.services.url_of(self.template))
        keys = self.command("keys", "create", "--tenant", "bench", "--user", "bench")
        try:
            await bench.launcher.output("runstream migrate", self.command("migrate"), env)
            self.key = (await bench.launcher.output("runstream keys create", keys, env)).split()[-1]
        except SystemFailed as failure:
            raise Unavailable("its database could not be prepared") from failure

    @asynccontextmanager
    async def running(self, bench: Bench) -> AsyncIterator[Running]:
        port = free_port()
        serve = self.command("api", "--host", "127.0.0.1", "--port", str(port))
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(bench.services.database(self.template))
            env = self.environment(bench, database)
            launch = bench.launcher.running
            worker = await stack.enter_async_context(launch("runstream-worker", self.command("worker"), env))
            api = await stack.enter_async_context(launch("runstream-api", serve, env, port=port))
            yield Running(RunstreamClient(Address(port, self.key), self.asked), (api.pid, worker.pid), api.pid)

    def command(self, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "runstream", *arguments)

    def environment(self, bench: Bench, database: str) -> dict[str, str]:
        provider = {"kind": "openai", "base_url": f"{bench.provider_url}/v1", "api_keys": ["k"]}
        return {
            "RUNSTREAM_DATABASE_URL": database,
            "RUNSTREAM_LIMITS": "{}",
            "RUNSTREAM_REDIS_URL": bench.services.redis_url,
            "RUNSTREAM_PROVIDERS": orjson.dumps({"bench": provider}).decode(),
            "RUNSTREAM_MODELS": orjson.dumps({"sim:*": ["bench/*"]}).decode(),
        }


def cache_folder() -> Path:
    """A folder of this benchmark's own that outlives it, outside the checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runstream-bench"


SYSTEMS: tuple[System, ...] = (Direct(), Resumable(), Naive(), Runstream())
NAMES = tuple(system.name for system in SYSTEMS)
