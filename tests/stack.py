"""The whole system as processes: simulated provider, Valkey, API and worker processes, on a given database."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TypeVar

import httpx
from tests import forked

from runstream.access.keys import Keys
from runstream.domain.principal import Kind, Scope
from runstream.embedded import Valkey
from runstream.embedded.port import free_port
from runstream.storage.database import connect
from runstream.storage.keys import KeyStore

PROVIDER = "local"
PROVIDER_KEY = "provider-secret-8d1f"
MODELS = {
    "demo": ["local/demo"],
    "sim:*": ["local/*"],
    "clock:*": ["local/*"],
    "unicode:*": ["local/*"],
    "reasoning:*": ["local/*"],
    "tools:*": ["local/*"],
    "sentences:*": ["local/*"],
    "big:*": ["local/*"],
    "cut:*": ["local/*"],
    "hang:*": ["local/*"],
    "error:*": ["local/*"],
    "malformed:*": ["local/*"],
    "nofinish:*": ["local/*"],
    "slow-headers:*": ["local/*"],
    "status:*": ["local/*"],
    "flaky:*": ["local/*"],
}
"""What the simulator acts out, and nothing else: there are models that are not configured."""
START_DEADLINE = 60
STOP_DEADLINE = 30
POLL = 0.02
ATTEMPTS = 3
"""Another program may take a free port before the process binds it."""

Command = Callable[..., subprocess.CompletedProcess[str]]

T = TypeVar("T")


class Process:
    """One `runstream` command; its output is kept in `log`."""

    def __init__(self, name: str, *arguments: str, directory: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.environment = dict(environment)
        self.log = directory / f"{name}.log"
        self._command = forked.ForkedCommand(*arguments, directory=directory, environment=environment, output=self.log)

    @property
    def pid(self) -> int:
        return self._command.pid

    @property
    def alive(self) -> bool:
        return self._command.ended() is None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        self._command.send(signal.SIGKILL)
        self.wait()

    def terminate(self) -> None:
        """Ask it to end, and return at once."""
        self._command.send(signal.SIGTERM)

    def wait(self, seconds: float = STOP_DEADLINE) -> int:
        """Its exit code, once it has ended."""
        return self._command.wait(seconds)

    def pause(self) -> None:
        """Stop it in its tracks; `resume` lets it go on as if nothing had happened."""
        self._command.send(signal.SIGSTOP)

    def resume(self) -> None:
        self._command.send(signal.SIGCONT)

    def until(self, ready: Callable[[], bool]) -> bool:
        """Wait until `ready` says so; False where the process ended before. Fails when it takes too long."""
        deadline = time.monotonic() + START_DEADLINE
        while not ready():
            if not self.alive:
                return False
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} was not ready after {START_DEADLINE} s:\n{self.output()}")
            time.sleep(POLL)
        return True


class Api(Process):
    url = ""


class Stack:
    """Started whole, with as many API processes and workers as asked for; `environment` is what they are given.

    Its Valkey and its provider are its own: they may be flushed, killed and started again. Processes that are no
    longer wanted leave by `kill` or `stop`, so that `url`, `apis` and `workers` name the living ones.
    """

    def __init__(self, directory: Path, *, database_url: str, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.database_url = database_url
        self.valkey = Valkey(directory / "valkey", durable=False)
        self.apis: list[Api] = []
        self.workers: list[Process] = []
        self._own = dict(environment)
        self._processes: list[Process] = []
        self._spawning = threading.Lock()
        self._ended = False

    def start(self, *, apis: int, workers: int) -> None:
        self.valkey.start()
        self.provider = self._start_provider(0)
        self.key = self.create_key("acme", "ada")
        self.environment = self._environment()
        self.workers = [self._spawn_worker({}) for _ in range(workers)]
        spawned = [self._spawn_api({}) for _ in range(apis)]
        for api in spawned:
            self._started(api, {})
        for api in self.apis:
            _await_ready(api)
        for worker in self.workers:
            _await_worker(worker)

    def end(self) -> None:
        """Kill everything; a thread that still starts processes starts no more."""
        with self._spawning:
            self._ended = True
            for process in self._processes:
                process.kill()
        self.valkey.stop()

    @property
    def url(self) -> str:
        """Where the first living API process answers."""
        return self.apis[0].url

    @property
    def urls(self) -> list[str]:
        return [api.url for api in self.apis]

    @property
    def redis_url(self) -> str:
        return self.valkey.url

    def create_key(
        self, tenant: str | None, user: str | None, kind: Kind = Kind.USER, scopes: Collection[Scope] | None = None
    ) -> str:
        """A new key, in the tables directly: the command takes most of a second."""

        async def made() -> str:
            engine = connect(self.database_url, pool_size=1, timeout=START_DEADLINE)
            try:
                keys = Keys(KeyStore(engine))
                return (await keys.create(kind=kind, tenant=tenant, user=user, scopes=scopes)).key
            finally:
                await engine.dispose()

        return outside_the_loop(lambda: asyncio.run(made()))

    def start_api(self, **environment: str) -> Api:
        """One more API process, ready to serve; variables are named without their `RUNSTREAM_`."""
        api = self.launch_api(**environment)
        _await_ready(api)
        return api

    def launch_api(self, **environment: str) -> Api:
        """One more API process, as soon as it answers at all."""
        return self._started(self._spawn_api(environment), environment)

    def start_worker(self, **environment: str) -> Process:
        """One more worker, which takes jobs already."""
        worker = self._spawn_worker(environment)
        _await_worker(worker)
        self.workers.append(worker)
        return worker

    def restart_provider(self) -> None:
        """Kill the provider, and start another at the same address."""
        port = self.provider_url.rpartition(":")[2].partition("/")[0]
        self.provider.kill()
        self.provider = self._start_provider(int(port))

    def kill(self, process: Process) -> None:
        """End it with SIGKILL."""
        self._forget(process)
        process.kill()

    def stop(self, process: Process) -> int:
        """End it with SIGTERM, and return its exit code."""
        self._forget(process)
        process.terminate()
        return process.wait()

    def command(self, *arguments: str) -> str:
        """Run a `runstream` command on this stack, and return what it printed."""
        ended = forked.run(*arguments, directory=self.directory, environment=self.environment, seconds=START_DEADLINE)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def provider_stats(self) -> dict:
        """What the provider counted: calls by model, open streams, streams that the client closed."""
        return httpx.get(f"{self.provider_origin}/stats", timeout=START_DEADLINE).raise_for_status().json()

    def provider_calls(self, model: str | None = None) -> list[dict]:
        """What the provider noted of each call, or of those for this model."""
        calls = httpx.get(f"{self.provider_origin}/calls", timeout=START_DEADLINE).raise_for_status().json()["calls"]
        return [call for call in calls if model in (None, call["model"])]

    def outputs(self) -> dict[str, str]:
        """What each process has said so far, the dead ones included, by its name."""
        return {process.name: process.output() for process in self._processes}

    def _start_provider(self, port: int) -> Process:
        provider = self._spawn(
            Process, "provider", "simulate-provider", "--port", str(port), environment={}, given=_clean_environment()
        )
        assert provider.until(lambda: "listens at" in provider.output()), provider.output()
        self.provider_url = provider.output().split()[-1]
        self.provider_origin = self.provider_url.removesuffix("/v1")
        return provider

    def _spawn_api(self, environment: Mapping[str, str]) -> Api:
        port = free_port()
        api = self._spawn(Api, "api", "api", "--port", str(port), environment=environment)
        api.url = f"http://127.0.0.1:{port}"
        return api

    def _started(self, api: Api, environment: Mapping[str, str]) -> Api:
        for _ in range(ATTEMPTS):
            if api.until(lambda api=api: _answers(api.url)):
                self.apis.append(api)
                return api
            api = self._spawn_api(environment)
        raise AssertionError(f"no API process starts:\n{api.output()}")

    def _spawn_worker(self, environment: Mapping[str, str]) -> Process:
        return self._spawn(Process, "worker", "worker", environment=environment)

    def _environment(self) -> dict[str, str]:
        providers = {PROVIDER: {"kind": "openai", "base_url": self.provider_url, "api_keys": [PROVIDER_KEY]}}
        return {
            **_clean_environment(),
            "RUNSTREAM_DATABASE_URL": self.database_url,
            "RUNSTREAM_REDIS_URL": self.redis_url,
            "RUNSTREAM_PROVIDERS": json.dumps(providers),
            "RUNSTREAM_MODELS": json.dumps(MODELS),
            "RUNSTREAM_DEFAULT_MODEL": "sim:5",
            "RUNSTREAM_CONSOLE": "true",
            "RUNSTREAM_CONSOLE_KEY": self.key,
            "RUNSTREAM_RETRY_DELAYS": "[0.2]",
            "RUNSTREAM_LIMITS": "{}",
            "RUNSTREAM_FAILED_AUTH_PER_MINUTE": "100000",
            **_variables(self._own),
        }

    def _spawn(
        self,
        kind: type[T],
        name: str,
        *arguments: str,
        environment: Mapping[str, str],
        given: Mapping[str, str] | None = None,
    ) -> T:
        base = self.environment if given is None else given
        with self._spawning:  # several threads may start processes, and each has its own name and log
            assert not self._ended, "the stack has ended"
            number = sum(process.name.startswith(f"{name}-") for process in self._processes) + 1
            process = kind(
                f"{name}-{number}",
                *arguments,
                directory=self.directory,
                environment={**base, **_variables(environment)},
            )
            self._processes.append(process)
        return process

    def _forget(self, process: Process) -> None:
        self.apis = [api for api in self.apis if api is not process]
        self.workers = [worker for worker in self.workers if worker is not process]


def outside_the_loop(call: Callable[[], T]) -> T:
    """Call in a thread: an event loop that is run here would take the place of the one that the tests share."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def _clean_environment() -> dict[str, str]:
    """This process's environment without any Runstream configuration in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RUNSTREAM_")}


def _variables(named: Mapping[str, str]) -> dict[str, str]:
    return {f"RUNSTREAM_{name.upper()}": str(value) for name, value in named.items()}


def _await_ready(api: Api) -> None:
    assert api.until(lambda: _ready(api.url)), f"the API ended:\n{api.output()}"


def _await_worker(worker: Process) -> None:
    assert worker.until(lambda: "worker_ready" in worker.output()), f"the worker ended:\n{worker.output()}"


def _answers(url: str) -> bool:
    try:
        return _status(url, "/healthz") == 200
    except (OSError, HTTPException):
        return False


def _ready(url: str) -> bool:
    return _status(url, "/readyz") == 200


def _status(url: str, path: str) -> int:
    """Asked again and again while a process starts: a client of httpx's takes the time that the process needs."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=START_DEADLINE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()
