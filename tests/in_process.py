"""A worker's own parts, put together in this process: real Postgres and Valkey, and a simulated provider.

For what a run's attempt comes to, where it does not matter that a worker is a process, which starts and dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any

import asyncpg
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.answers.board import Board
from runstream.connections import guards
from runstream.counters.book import Book
from runstream.domain.cursor import START
from runstream.domain.events import Event
from runstream.domain.ids import new_id
from runstream.domain.principal import Owner
from runstream.domain.run import Caching, Request, Run
from runstream.features.base import Feature
from runstream.features.chat import Chat
from runstream.gateway.cache import Keeping
from runstream.gateway.circuits import Circuits
from runstream.gateway.generate import Gateway
from runstream.gateway.pricing import Prices
from runstream.gateway.routes import Routes, TargetConfig
from runstream.gateway.turn import Lines
from runstream.providers.base import Provider, ProviderConfig, Timeouts
from runstream.providers.openai_chat import OpenAIChat
from runstream.providers.simulated import Simulator
from runstream.queue.enqueue import JobQueue
from runstream.redis_script import Scripts
from runstream.runs.execute import Execute
from runstream.runs.sharing.answers import Answers
from runstream.runs.sharing.calls import SharedCalls
from runstream.settings import GuardSettings, ModerationSettings, Settings
from runstream.storage.answers import AnswerStore
from runstream.storage.database import connect
from runstream.storage.leases import LeaseStore
from runstream.storage.runs import RunStore
from runstream.storage.tenancy import Role
from runstream.stream.log import TokenLog
from runstream.stream.writer import WriteLoop

DEADLINE = 60
MOST_EVENTS = 25_000
WORKER = "wrk_1"
TENANT = "acme"


class LetsPass(Chat):
    """A chat that goes on where moderation cannot answer."""

    name = "lets_pass"
    moderation_required = False


FEATURES: Mapping[str, Feature] = {feature.name: feature for feature in (Chat(), LetsPass())}


class InProcessWorker:
    """`async with working(...) as worker: run, events = await worker.run(...)`."""

    def __init__(self, execute: Execute, store: RunStore, log: TokenLog, simulator: Simulator, url: str) -> None:
        self.execute = execute
        self.store = store
        self.log = log
        self.simulator = simulator
        self._url = url

    async def run(
        self, *said: Any, model: str = "sim:3", feature: str = "chat", attempts: int = 1, messages: Any = None
    ) -> tuple[Run, list[Event]]:
        """A run of these messages of a user, once its attempt is over; and all that any reader of it was sent."""
        run_id = await self.create(*said, model=model, feature=feature, attempts=attempts, messages=messages)
        async with asyncio.timeout(DEADLINE):
            await self.execute(TENANT, run_id)
        return await self.get(run_id), await self.events(run_id)

    async def create(
        self,
        *said: Any,
        model: str,
        feature: str = "chat",
        attempts: int = 1,
        messages: Any = None,
        cache: Caching = Caching.OFF,
    ) -> str:
        run_id = new_id("run")
        asked = messages or [{"role": "user", "content": content} for content in said]
        request = Request(feature, "1", model, {"messages": asked}, {}, cache=cache)
        await self.store.insert(run_id, tenant=TENANT, user="ada", request=request, queue="q", max_attempts=attempts)
        return run_id

    async def get(self, run_id: str) -> Run:
        run = await self.store.get(Owner(TENANT, None), run_id)
        assert run is not None
        return run

    async def events(self, run_id: str) -> list[Event]:
        entries, _ = await self.log.read(run_id, START, most=MOST_EVENTS)
        return [entry.event() for entry in entries]

    async def ledger(self, run_id: str) -> list[asyncpg.Record]:
        return await self.rows("select * from ledger where run_id = $1", run_id)

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self._url, timeout=DEADLINE)
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    @property
    def asked(self) -> list[str]:
        """The last message of each call that the provider had."""
        return [call["asked"] for call in self.simulator.record.told()["calls"]]

    @property
    def judged(self) -> list[Sequence[Any]]:
        """The inputs of each call for moderation."""
        return list(self.simulator.judge.asked)


@asynccontextmanager
async def working(
    database_url: str,
    redis_url: str,
    *,
    rules: Mapping[str, Any] | None = None,
    moderation: str | None = None,
    targets: Sequence[TargetConfig] = (TargetConfig("p/*"),),
    addresses: Mapping[str, str] | None = None,
    given: Mapping[str, Provider] | None = None,
    max_output_chars: int = 100_000,
    **moderated: Any,
) -> AsyncIterator[InProcessWorker]:
    """`rules` are RUNSTREAM_GUARDS, `moderation` is the model that judges, and `moderated` the rest of its settings.

    `targets` are those of every model, at the provider `p`, which is simulated, at those with `addresses`, and at those
    that are `given`.
    """
    connection = await asyncpg.connect(database_url, timeout=DEADLINE)
    await connection.execute("insert into tenants (id) values ($1) on conflict do nothing", TENANT)
    await connection.close()
    engine = connect(database_url, pool_size=2, timeout=DEADLINE, role=Role.APPLICATION)
    sweep = connect(database_url, pool_size=1, timeout=DEADLINE, role=Role.SWEEP)
    store = RunStore(engine)
    async with (
        Redis.from_url(redis_url) as redis,
        aclosing(Scripts(redis, timeout=DEADLINE)) as scripts,
        Simulator() as simulator,
    ):
        judge = None
        if moderation is not None:
            judge = ModerationSettings(base_url=simulator.url, api_keys=["k"], model=moderation, **moderated)
        settings = Settings(_env_file=None, guards=GuardSettings(**(rules or {})), moderation=judge)
        log = TokenLog(redis, scripts, ttl=60, ended_ttl=60)
        loop = WriteLoop(log)
        sending = asyncio.create_task(loop.run())
        async with (
            AsyncExitStack() as open_,
            aclosing(guards(settings)) as guard,
        ):
            providers: dict[str, Provider] = {
                name: await open_.enter_async_context(
                    aclosing(OpenAIChat(ProviderConfig(name, "openai", address, ("k",))))
                )
                for name, address in {"p": simulator.url, **(addresses or {})}.items()
            } | dict(given or {})
            routes, prices = Routes({"*": targets}, providers), Prices(dict.fromkeys(providers, "http://p"), {})
            lines = Lines({}, wait=0, reserved_output=0)
            gateway = Gateway(routes, providers, Timeouts(), prices, Circuits(), lines)
            execute = Execute(
                worker=WORKER,
                store=store,
                jobs=JobQueue(scripts),
                book=Book(redis, scripts),
                write_loop=loop,
                gateway=gateway,
                guards=guard,
                answers=answers_of(scripts, engine, gateway, log, loop),
                features=FEATURES,
                retry_delays=[0],
                max_output_chars=max_output_chars,
            )
            try:
                await LeaseStore(sweep).renew(WORKER, "host", 60)
                yield InProcessWorker(execute, store, log, simulator, database_url)
            finally:
                sending.cancel()
                with suppress(asyncio.CancelledError):
                    await sending
                await engine.dispose()
                await sweep.dispose()


def answers_of(
    scripts: Scripts, engine: AsyncEngine, gateway: Gateway, token_log: TokenLog, write_loop: WriteLoop
) -> Answers:
    """What gives runs the answers of others."""
    board, store = Board(scripts, "worker", lease=3), AnswerStore(engine)
    calls = SharedCalls(board=board, store=store, token_log=token_log, write_loop=write_loop, gateway=gateway)
    return Answers(board, store, calls, gateway, Keeping(60, 50))
