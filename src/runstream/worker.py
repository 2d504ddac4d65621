"""The worker process."""

import asyncio
import os
import signal
import socket
from functools import partial

import structlog
import uvloop
from arq.connections import ArqRedis
from prometheus_client import start_http_server
from redis.exceptions import RedisError

from runstream.answers.board import Board
from runstream.connections import (
    guards,
    key_rates,
    master_keys,
    model_routes,
    open_log,
    prices,
    provider_configs,
    redis_client,
    retention,
    timeouts,
)
from runstream.counters.book import Book
from runstream.counters.key_turns import KeyTurns
from runstream.crash_points import arm
from runstream.domain.errors import ConfigurationError, Unavailable
from runstream.domain.ids import new_id
from runstream.features.registry import FEATURES
from runstream.garbage import look_seldom
from runstream.gateway.cache import Keeping
from runstream.gateway.circuits import Circuits
from runstream.gateway.generate import Gateway
from runstream.gateway.line import Line
from runstream.gateway.turn import Lines
from runstream.logs import configure
from runstream.providers.registry import build
from runstream.queue.control import listen
from runstream.queue.doorbell import WokenWorker
from runstream.queue.enqueue import JobQueue
from runstream.queue.lease import Lease
from runstream.queue.names import TERMS_CHANNEL, control_channel
from runstream.redis_script import Scripts
from runstream.runs.delete import Deleting
from runstream.runs.erase import Erase
from runstream.runs.execute import Execute
from runstream.runs.halt import Halt
from runstream.runs.reconcile import Reconcile
from runstream.runs.recover import Sweep
from runstream.runs.retain import Retain
from runstream.runs.sharing.answers import Answers
from runstream.runs.sharing.calls import SharedCalls
from runstream.runs.spend_watch import SpendWatch
from runstream.runs.upkeep import Upkeep
from runstream.settings import Settings
from runstream.storage.answers import AnswerStore
from runstream.storage.audit import AuditStore
from runstream.storage.budgets import BudgetStore
from runstream.storage.condition import warn_of_wall
from runstream.storage.content import content_with
from runstream.storage.database import OVERALL, connect, open_pool
from runstream.storage.deletions import DeletionStore
from runstream.storage.deliveries import DeliveryStore
from runstream.storage.erasures import ErasureStore
from runstream.storage.leases import LeaseStore
from runstream.storage.left_behind import LeftBehind
from runstream.storage.pace import PaceStore
from runstream.storage.removal import RemovalStore
from runstream.storage.required_keys import require
from runstream.storage.retention import RetentionStore
from runstream.storage.runs import RunStore
from runstream.storage.tenancy import Role
from runstream.storage.terms import TermsStore
from runstream.stream.writer import WriteLoop
from runstream.terminal import at_terminal
from runstream.terms.copy import TermsCopy
from runstream.terms.removal import Removal
from runstream.webhooks.deliver import Deliver, Schedule
from runstream.webhooks.sender import Sender

_PAUSE = 1.0
_LAST_STEPS = 10.0
"""Seconds for stopped generations to be handed back or ended."""

log = structlog.get_logger(__name__)


def work(settings: Settings) -> None:
    """Work until SIGTERM or Ctrl-C; a second one cuts the grace time short. Raises ConfigurationError."""
    configure(level=settings.log_level, form=settings.log_format)
    arm(settings.crash_at)
    uvloop.run(_Process(settings).run())


class _Process:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._id = new_id("wrk")
        pool, timeout = settings.database_pool, settings.database_timeout
        self._engine = connect(settings.database_login, pool_size=pool, timeout=timeout, role=Role.APPLICATION)
        overall = partial(connect, settings.sweep_login, role=Role.SWEEP)
        self._sweep_engine = overall(pool_size=OVERALL, timeout=timeout)
        # Its own connection: a lease that waited behind the runs could lapse because they are many.
        # A renewal that takes longer than the lease is of no use.
        self._lease_engine = overall(pool_size=1, timeout=min(timeout, settings.lease))
        self._redis = redis_client(settings)
        self._waiting = redis_client(settings, waiting=True)
        self._scripts = Scripts(self._waiting, timeout=settings.redis_timeout)
        self._providers = {name: build(config) for name, config in provider_configs(settings).items()}
        self._guards = guards(settings)
        self._masters = master_keys(settings)
        self._content = content_with(self._engine, self._masters)
        self._store = RunStore(self._engine, content=self._content, warn_call_cost=settings.warn_call_cost)
        self._leases = LeaseStore(self._lease_engine)
        self._jobs = JobQueue(self._scripts)
        self._token_log = open_log(settings, self._waiting, self._scripts)
        self._book = Book(self._redis, self._scripts)
        self._lease = Lease(
            self._leases, self._id, socket.gethostname(), duration=settings.lease, interval=settings.lease_interval
        )
        self._write_loop = WriteLoop(self._token_log, self._lease.holds)
        self._turns = KeyTurns(self._scripts, longest=settings.provider_wait)
        self._lines = self._lines_at_keys()
        self._gateway = Gateway(
            model_routes(settings), self._providers, timeouts(settings), prices(settings), Circuits(), self._lines
        )
        self._board = Board(self._scripts, self._id, lease=settings.lease)
        self._answer_store = AnswerStore(self._engine, self._content)
        self._shared_calls = SharedCalls(
            board=self._board,
            store=self._answer_store,
            token_log=self._token_log,
            write_loop=self._write_loop,
            gateway=self._gateway,
        )
        self._terms_store = TermsStore(self._sweep_engine)
        self._terms = TermsCopy(self._terms_store)
        self._execute = self._executing()
        self._sweep = self._sweeping()
        self._upkeep = self._keeping_up()
        self._spend_watch = self._watching_spend()

    def _lines_at_keys(self) -> Lines:
        lines = {
            name: Line(name, rate, self._providers[name].keys, self._turns, worker=self._id)
            for name, rate in key_rates(self._settings).items()
        }
        return Lines(lines, wait=self._settings.provider_wait, reserved_output=self._settings.reserved_output_tokens)

    def _executing(self) -> Execute:
        settings = self._settings
        keeping = Keeping(settings.cache_ttl, settings.cache_min_tokens)
        return Execute(
            worker=self._id,
            store=self._store,
            book=self._book,
            jobs=self._jobs,
            write_loop=self._write_loop,
            gateway=self._gateway,
            guards=self._guards,
            answers=Answers(self._board, self._answer_store, self._shared_calls, self._gateway, keeping),
            features=FEATURES,
            retry_delays=settings.retry_delays,
            max_output_chars=settings.max_output_chars,
            lease_holds=self._lease.holds,
            terms=self._terms,
        )

    def _sweeping(self) -> Sweep:
        left = LeftBehind(self._sweep_engine)
        removal = Removal(
            RemovalStore(self._sweep_engine),
            self._terms_store,
            AuditStore(self._sweep_engine, self._sweep_engine),
            self._token_log,
            self._redis,
            self._terms,
            by=at_terminal(),
        )
        return Sweep(
            store=self._store,
            left=left,
            leases=self._leases,
            jobs=self._jobs,
            token_log=self._token_log,
            book=self._book,
            reconcile=Reconcile(self._book, BudgetStore(self._engine)),
            queue=self._settings.queue,
            interval=self._settings.sweep_interval,
            steady=lambda: self._lease.steady,
            call_unseen=self._gateway.call_unseen,
            stop_answer=self._gateway.stop,
            also=[Halt(left, self._redis, self._terms), removal],
        )

    def _keeping_up(self) -> Upkeep:
        deletions = DeletionStore(self._sweep_engine)
        deleting = Deleting(
            deletions=deletions, runs=self._store, token_log=self._token_log, book=self._book, redis=self._redis
        )
        erasures = ErasureStore(self._sweep_engine)
        erase = Erase(erasures=erasures, deletions=deletions, deleting=deleting, book=self._book)
        retain = Retain(RetentionStore(self._sweep_engine), retention(self._settings, self._terms))
        return Upkeep([erase, retain], interval=self._settings.sweep_interval)

    def _watching_spend(self) -> SpendWatch | None:
        """None where nobody wants to be warned."""
        times = self._settings.warn_spend_times
        if times is None:
            return None
        return SpendWatch(PaceStore(self._sweep_engine), self._book, times=times, floor=self._settings.warn_spend_floor)

    def _delivering(self) -> Deliver:
        """Within a loop, which connections are bound to."""
        settings = self._settings
        return Deliver(
            store=DeliveryStore(self._engine, self._sweep_engine, self._content, patience=settings.webhook_patience),
            runs=self._store,
            sender=Sender(
                timeout=settings.webhook_timeout, private=settings.webhook_private, lookups=settings.webhook_slots
            ),
            schedule=Schedule(settings.webhook_delays, settings.webhook_kept),
            slots=settings.webhook_slots,
            timeout=settings.webhook_timeout,
        )

    async def run(self) -> None:
        stopping, hurrying = self._signals()
        if port := self._settings.worker_metrics_port:
            serve_metrics(port)
        await self._take_lease(stopping)
        await asyncio.gather(open_pool(self._engine, self._settings.database_pool), warn_of_wall(self._engine))
        worker = WokenWorker(
            self._execute,
            ArqRedis(self._redis.connection_pool),
            self._waiting,
            self._scripts,
            worker=self._id,
            queue=self._settings.queue,
            max_jobs=self._settings.worker_slots,
            job_timeout=self._settings.run_timeout + 60,
        )
        deliver = self._delivering()
        background: list[asyncio.Task[None]] = [
            asyncio.create_task(loop)
            for loop in (
                self._write_loop.run(),
                self._lease.keep(self._execute),
                self._sweep.run(),
                self._upkeep.run(),
                self._shared_calls.run(),
                deliver.run(),
                listen(
                    self._waiting,
                    {control_channel(self._id): self._execute.cancel, TERMS_CHANNEL: self._terms.tell},
                ),
                self._terms.run(),
                _pick(worker),
                *([self._spend_watch.run()] if self._spend_watch else []),
            )
        ]
        look_seldom()
        log.info("worker_ready", worker=self._id, pid=os.getpid())
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait([*background, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        broken = [task for task in background if task.done()]
        worker.stop_picking()
        await self._finish(worker, hurrying)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await deliver.aclose(_LAST_STEPS)
        await self._close()
        for task in broken:
            await task

    def _signals(self) -> tuple[asyncio.Event, asyncio.Event]:
        stopping, hurrying = asyncio.Event(), asyncio.Event()

        def stop() -> None:
            (hurrying if stopping.is_set() else stopping).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        return stopping, hurrying

    async def _take_lease(self, stopping: asyncio.Event) -> None:
        """And read on what terms tenants are served."""
        while not stopping.is_set():
            try:
                await require(self._sweep_engine, self._masters)
                await self._lease.take()
                await self._terms.read()
            except Unavailable as error:
                log.warning("lease_not_taken", error=error.message)
                await asyncio.sleep(_PAUSE)
            else:
                return

    async def _finish(self, worker: WokenWorker, hurrying: asyncio.Event) -> None:
        """Let generations end within the grace time, and hand the others back."""
        log.info("worker_stopping", running=len(worker.tasks), grace=self._settings.worker_grace)
        hurry = asyncio.create_task(hurrying.wait())
        await _until_idle(worker, self._settings.worker_grace, hurry)
        hurry.cancel()
        self._execute.hand_back()
        await _until_idle(worker, _LAST_STEPS, None)
        await self._shared_calls.aclose(_LAST_STEPS)

    async def _close(self) -> None:
        try:
            await self._lease.release()
        except Unavailable as error:
            log.warning("lease_not_released", error=error.message)
        await self._lines.aclose()
        for provider in self._providers.values():
            await provider.aclose()
        await self._guards.aclose()
        await self._scripts.aclose()
        await self._redis.aclose()
        await self._waiting.aclose()
        await self._lease_engine.dispose()
        await self._sweep_engine.dispose()
        await self._engine.dispose()


def serve_metrics(port: int) -> None:
    """Raises ConfigurationError."""
    try:
        start_http_server(port)
    except OSError as error:
        raise ConfigurationError(
            f"RUNSTREAM_WORKER_METRICS_PORT: {port} cannot be listened on ({error.strerror}): each worker of a machine "
            f"needs one of its own."
        ) from None


async def _pick(worker: WokenWorker) -> None:
    while True:
        try:
            await worker.async_run()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("queue_unreachable", error=type(error).__name__)
            await asyncio.sleep(_PAUSE)


async def _until_idle(worker: WokenWorker, seconds: float, hurry: asyncio.Task[bool] | None) -> None:
    """Until no job runs, `seconds` have passed, or it hurries."""
    idle = asyncio.create_task(_idle(worker))
    await asyncio.wait([idle, hurry] if hurry else [idle], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    idle.cancel()


async def _idle(worker: WokenWorker) -> None:
    while worker.tasks:
        await asyncio.wait(list(worker.tasks.values()))
