"""Ask, and look at what is answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

import httpx
import jwt
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.fuzz.asks import Asks
from tests.fuzz.known import Known
from tests.fuzz.oracle import Oracle
from tests.fuzz.people import MARK, TRUSTED, Asking, Key, People
from tests.fuzz.wire import Answer, Ask, ask
from tests.stack import Stack

from runstream.access.secrets import hash_key
from runstream.domain.principal import Kind
from runstream.storage.database import connect

ASKERS = 16
DEADLINE = 30
LOOK = 1.0
DRAIN = 120
SHOWN = 25
SETTINGS = {
    "limits": json.dumps({"tenants": {"initech": {"tenant": {"requests_per_minute": 30}}}}),
    "jwt": json.dumps(TRUSTED),
    "failed_auth_per_minute": 10**9,
    "first_token_timeout": 2,
    "idle_timeout": 2,
    "run_timeout": 10,
    "request_timeout": 5,
    "max_queued": 100_000,
    "max_queued_per_tenant": 100_000,
}

_DEAD = text("select hash from api_keys where revoked_at <= now() or expires_at <= now()")
_OPEN = text("select count(*) from runs where status in ('queued', 'running')")


@dataclass
class Report:
    seed: int
    requests: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        return not self.faults

    def add(self, asked: Ask, status: str, faults: list[str]) -> None:
        self.requests += 1
        self.statuses[f"{asked.operation} {status}"] += 1
        for fault in faults:
            kind = f"{asked.operation}: {fault[:60]}"
            self.faults[kind] += 1
            self.examples.setdefault(kind, f"{fault}\n    {asked}")

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.requests} requests in {self.seconds:.0f} s, {self.faults.total()} faults"]
        lines += [f"  {count:6} {name}" for name, count in sorted(self.statuses.items())]
        lines += [f"  {count} times {self.examples[kind]}" for kind, count in self.faults.most_common(SHOWN)]
        return "\n".join(lines)


class Fuzz:
    """Upon a stack that was started with SETTINGS; `run` answers a report."""

    def __init__(self, stack: Stack, *, seed: int, requests: int, tell: Callable[[str], None]) -> None:
        self._stack = stack
        self._random = Random(seed)
        self._left = requests
        self._tell = tell
        self._report = Report(seed)
        self._known = Known(self._random)

    async def run(self) -> Report:
        stack = self._stack
        engine = connect(stack.database_url, pool_size=1, timeout=DEADLINE)
        async with httpx.AsyncClient(timeout=DEADLINE) as http:
            document = (await http.get(f"{stack.url}/openapi.json")).raise_for_status().json()
        self._people = await asyncio.to_thread(People, stack, self._random)
        self._asks = Asks(document, self._known, self._random)
        self._oracle = Oracle(document, self._known)
        self._ports = [urlsplit(url).port or 0 for url in stack.urls]
        processes = [(process.name, process.pid) for process in [*stack.apis, *stack.workers]]
        began = time.monotonic()
        looking = asyncio.create_task(self._look(engine))
        await asyncio.gather(*(self._asker() for _ in range(ASKERS)))
        looking.cancel()
        self._report.seconds = time.monotonic() - began
        await self._afterwards(engine, processes)
        await engine.dispose()
        return self._report

    async def _asker(self) -> None:
        while self._left > 0:
            self._left -= 1
            if self._left % 5000 == 0:
                self._tell(f"{self._left} requests left, {self._report.faults.total()} faults")
            asking = self._people.asking()
            asked = self._asks.next(asking)
            try:
                answer = await ask(self._random.choice(self._ports), asked, deadline=DEADLINE)
            except TimeoutError:
                self._report.add(asked, "hangs", [f"no answer within {DEADLINE} s"])
                continue
            except OSError as error:
                self._report.add(asked, "refused", [f"not connected: {error}"])
                continue
            faults = list(self._oracle.faults(asked, answer, asking.sees))
            self._report.add(asked, str(answer.status if answer else "closed"), faults)
            if answer is not None:
                self._learn(asking, asked, answer)

    def _learn(self, asking: Asking, asked: Ask, answer: Answer) -> None:
        self._known.learn(answer.text)
        if asked.names and asked.operation.startswith("DELETE") and answer.status == 204:
            self._known.deleted(asked.names)
        if asked.operation.startswith("POST /v1/keys") and answer.status == 201 and answer.whole:
            made = json.loads(answer.body)
            self._people.add(Key(made["key"], Kind(made["kind"]), made["tenant"], made["user"]))
        if asked.operation.endswith("/token") and answer.status == 201 and answer.whole:
            token = json.loads(answer.body)["token"]
            whose = jwt.decode(token.removeprefix("rt_"), options={"verify_signature": False})
            self._people.add(Key(token, Kind.USER, whose["tenant"], whose["sub"]))

    async def _look(self, engine: AsyncEngine) -> None:
        """Learn whose everything is, and which keys hold no more."""
        while True:
            await self._known.look(engine)
            async with engine.connect() as connection:
                hashes = set((await connection.execute(_DEAD)).scalars())
            dead = [token for token in self._people.tokens() if hash_key(token) in hashes]
            for token in dead:
                self._known.deleted(token)
            await asyncio.to_thread(self._people.refill, dead)
            await asyncio.sleep(LOOK)

    async def _afterwards(self, engine: AsyncEngine, processes: list[tuple[str, int]]) -> None:
        """All processes are there, all runs come to an end, and no log has what it must not have."""
        stack = self._stack
        here = [(process.name, process.pid) for process in [*stack.apis, *stack.workers] if process.alive]
        self._wrong("processes", [f"{name} is gone" for name, _ in set(processes) - set(here)])
        until = time.monotonic() + DRAIN
        left = 1
        while left and time.monotonic() < until:
            await asyncio.sleep(LOOK)
            async with engine.connect() as connection:
                left = (await connection.execute(_OPEN)).scalar_one()
        self._wrong("runs", [f"{left} runs have not ended after {DRAIN} s"] if left else [])
        logs = "".join(process.output() for process in [*stack.apis, *stack.workers])
        self._wrong("logs", ["content in the logs"] if MARK.search(logs) else [])
        self._wrong("logs", ["a key in the logs" for token in self._people.tokens() if token in logs])
        self._wrong("logs", [logs[logs.index("Traceback") :][:3000]] if "Traceback" in logs else [])

    def _wrong(self, what: str, faults: list[str]) -> None:
        for fault in faults:
            self._report.faults[f"{what}: {fault[:60]}"] += 1
            self._report.examples.setdefault(f"{what}: {fault[:60]}", fault)
