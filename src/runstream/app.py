"""The API process."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from functools import cache, partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from runstream import __version__
from runstream.access.authenticate import Authenticate
from runstream.access.check import KeyCheck
from runstream.access.failures import Failures
from runstream.access.issuers import Issuer
from runstream.access.jwt_check import JwtCheck
from runstream.access.keys import Keys
from runstream.access.run_tokens import RunTokens
from runstream.access.token_secrets import TokenSecrets
from runstream.api import (
    audit,
    errors,
    events,
    export,
    feedback,
    flags,
    keys,
    limits,
    operations,
    plans,
    run_tokens,
    runs,
    tenants,
    usage,
    users,
    webhooks,
)
from runstream.api.connection import Gate, room_for
from runstream.api.context import CheckedBody, RequestContext, Shortcut
from runstream.api.cors import allow_origins
from runstream.api.documents import describe
from runstream.api.exporting import Export, sections
from runstream.api.services import Services
from runstream.connections import input_limits, issuers, master_keys, model_routes, open_log, prices, redis_client
from runstream.connections import limits as limits_of
from runstream.console.routes import console_router
from runstream.counters.book import Book
from runstream.crash_points import arm
from runstream.domain.errors import Unavailable
from runstream.domain.usage import Usage
from runstream.features.registry import FEATURES
from runstream.garbage import look_seldom
from runstream.gateway.admission import Admission, Wanted
from runstream.gateway.routes import RouteQuery, Routes
from runstream.logs import configure
from runstream.queue.control import listen
from runstream.queue.enqueue import JobQueue
from runstream.queue.names import TERMS_CHANNEL
from runstream.redis_script import Scripts
from runstream.runs.backlog import Backlog
from runstream.runs.cancel import Cancel
from runstream.runs.delete import Delete, Deleting
from runstream.runs.retry import Retry
from runstream.runs.submit import Submit
from runstream.runs.watch import Watch
from runstream.settings import Settings
from runstream.storage.audit import AuditStore
from runstream.storage.budgets import BudgetStore
from runstream.storage.command import opened
from runstream.storage.condition import warn_of_wall
from runstream.storage.content import content_with
from runstream.storage.database import OVERALL, asyncpg_url, connect, open_pool
from runstream.storage.deletions import DeletionStore
from runstream.storage.documents import FLAGS, PLANS, DocumentStore
from runstream.storage.erasures import ErasureStore
from runstream.storage.exporting import ExportStore
from runstream.storage.feedback import FeedbackStore
from runstream.storage.keys import KeyStore
from runstream.storage.lists import AllRuns, RunLists
from runstream.storage.migrate import pending
from runstream.storage.required_keys import require
from runstream.storage.runs import RunStore
from runstream.storage.spend import SpendStore
from runstream.storage.tenancy import Role
from runstream.storage.terms import TermsStore
from runstream.storage.token_secrets import TokenSecretStore
from runstream.storage.webhooks import WebhookStore
from runstream.stream.hub import Hub
from runstream.terms.copy import TermsCopy
from runstream.terms.documents import Named
from runstream.terms.tenants import Tenants
from runstream.webhooks.endpoints import Endpoints

_PATIENCE = 2.0
"""Seconds to wait for the database before serving without having asked it."""


def create_app(settings: Settings) -> FastAPI:
    """Opens nothing until it is served. Raises ConfigurationError."""
    routes, trusted = model_routes(settings), issuers(settings)
    _check_addresses(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _services(settings, routes, trusted) as services:
            app.state.services = services
            running = [
                asyncio.create_task(loop)
                for loop in (
                    services.hub.run(),
                    services.key_check.run(),
                    services.jwt_check.run(),
                    services.terms.run(),
                    services.listening(),
                )
            ]
            look_seldom()
            try:
                yield
            finally:
                for task in running:
                    task.cancel()
                await asyncio.wait(running)

    app = Shortcut(
        title="Runstream",
        version=__version__,
        summary="Runs LLM generations for an application and never loses one.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # its scripts would come from somebody else's server
        redoc_url=None,
    )
    app.include_router(runs.router)
    app.include_router(run_tokens.router)
    app.include_router(usage.router)
    app.include_router(limits.router)
    app.include_router(webhooks.router)
    app.include_router(operations.router)
    app.include_router(keys.router)
    app.include_router(audit.router)
    app.include_router(feedback.router)
    app.include_router(tenants.router)
    app.include_router(plans.router)
    app.include_router(flags.router)
    app.include_router(users.router)
    app.include_router(export.router)
    if settings.console:
        key = settings.console_key.get_secret_value() if settings.console_key else None

        async def names(of_key: str | None) -> list[str]:
            whose = await app.state.services.key_check.principal(of_key) if of_key and settings.tenant_models else None
            return routes.names(whose and whose.tenant)

        app.include_router(console_router(key, names, settings.default_model))
    errors.install(app)
    describe(app)
    app.add_middleware(CheckedBody, limit=settings.max_body)
    app.add_middleware(RequestContext)
    if settings.cors_origins:
        allow_origins(app, settings.cors_origins)
    return app


def _check_addresses(settings: Settings) -> None:
    """Before the server starts, which would make a traceback of what is wrong with them."""
    asyncpg_url(settings.database_login)
    asyncpg_url(settings.sweep_login, "RUNSTREAM_SWEEP_DATABASE_URL")
    redis_client(settings)


async def _check_keys(settings: Settings) -> None:
    """Where the database does not answer, what cannot be opened is found out request by request."""
    with suppress(Unavailable):
        async with opened(settings.sweep_login, min(settings.database_timeout, _PATIENCE)) as engine:
            await require(engine, master_keys(settings))


@asynccontextmanager
async def _services(settings: Settings, routes: Routes, trusted: Sequence[Issuer]) -> AsyncIterator[Services]:
    pool, timeout = settings.database_pool, settings.database_timeout
    engine = connect(settings.database_login, pool_size=pool, timeout=timeout, role=Role.APPLICATION)
    # For what is asked before it is known whose it is, and for figures of all tenants together.
    overall = connect(settings.sweep_login, pool_size=OVERALL, timeout=timeout, role=Role.SWEEP)
    await asyncio.gather(open_pool(engine, pool), open_pool(overall, OVERALL), warn_of_wall(engine))
    redis = redis_client(settings)
    keys = Keys(KeyStore(engine))
    key_check, jwt_check = KeyCheck(KeyStore(overall)), JwtCheck(trusted, keys.has_tenant)
    run_tokens = RunTokens(TokenSecrets(TokenSecretStore(overall)), key_check)
    failures = Failures(settings.failed_auth_per_minute)
    content = content_with(engine, master_keys(settings))
    store = RunStore(engine, content=content, warn_call_cost=settings.warn_call_cost)
    all_runs = AllRuns(overall)
    waiting = redis_client(settings, waiting=True)
    scripts = Scripts(waiting, timeout=settings.redis_timeout)
    jobs = JobQueue(scripts)
    token_log = open_log(settings, waiting, scripts)
    book = Book(redis, scripts)
    terms_store = TermsStore(overall)
    terms = await _terms(terms_store)
    holding = limits_of(settings, terms)
    admission = Admission(
        holding,
        book,
        BudgetStore(engine),
        price=_price(settings, routes, at_once=holding.of_cost),
        reserved_output=settings.reserved_output_tokens,
    )
    hub = Hub(
        waiting,
        events.frame,
        buffer=settings.stream_buffer,
        heartbeat=settings.heartbeat,
        max_age=settings.stream_max_age,
    )
    watch = Watch(store, hub, token_log)
    backlog = Backlog(
        all_runs, settings.queue, most=settings.max_queued, most_per_tenant=settings.max_queued_per_tenant
    )
    submit = Submit(
        store=store,
        terms=terms,
        backlog=backlog,
        admission=admission,
        jobs=jobs,
        features=FEATURES,
        routes=routes,
        input_limits=input_limits(settings),
        default_model=settings.default_model,
        queue=settings.queue,
        max_attempts=settings.max_attempts,
    )
    deletions = DeletionStore(engine)
    deleting = Deleting(deletions=deletions, runs=store, token_log=token_log, book=book, redis=redis)
    webhook_store, export_store = WebhookStore(engine, content), ExportStore(engine, content)
    feedback, audit = FeedbackStore(engine, content), AuditStore(engine, overall)
    yield Services(
        missing_migration=partial(pending, overall),
        redis=redis,
        store=store,
        lists=RunLists(engine, content),
        all_runs=all_runs,
        spend=SpendStore(engine),
        admission=admission,
        key_check=key_check,
        jwt_check=jwt_check,
        authenticate=Authenticate(key_check, jwt_check, run_tokens, failures),
        keys=keys,
        run_tokens=run_tokens,
        jobs=jobs,
        queue=settings.queue,
        hub=hub,
        submit=submit,
        retry=Retry(store=store, terms=terms, jobs=jobs, backlog=backlog, admission=admission),
        cancel=Cancel(store=store, token_log=token_log, book=book, redis=redis, watch=watch),
        delete=Delete(deletions, deleting, watch),
        erasures=ErasureStore(engine),
        watch=watch,
        export=Export(export_store, sections(export_store, feedback, webhook_store, KeyStore(engine), audit)),
        endpoints=Endpoints(webhook_store, private=settings.webhook_private),
        audit=audit,
        feedback=feedback,
        terms=terms,
        limits=holding,
        tenants=Tenants(terms_store, redis, terms),
        plans=Named("plan", DocumentStore(overall, PLANS), redis, terms),
        flags=Named("flag", DocumentStore(overall, FLAGS), redis, terms),
        listening=partial(listen, waiting, {TERMS_CHANNEL: terms.tell}),
    )
    await scripts.aclose()
    await redis.aclose()
    await waiting.aclose()
    await engine.dispose()
    await overall.dispose()


async def _terms(store: TermsStore) -> TermsCopy:
    """Read, unless Postgres does not answer yet: then it is, as soon as that does."""
    terms = TermsCopy(store)
    with suppress(Unavailable):
        await terms.read()
    return terms


def _price(settings: Settings, routes: Routes, *, at_once: bool) -> Callable[[Wanted, Usage], Decimal | None]:
    """What a run costs at its first target. Prices take memory, and time to load: only who needs them does."""
    listed = cache(partial(prices, settings))
    if at_once:
        listed()

    def price(wanted: Wanted, usage: Usage) -> Decimal | None:
        query = RouteQuery(wanted.run_id, wanted.party.tenant, wanted.model, wanted.input, wanted.complexity)
        return listed().called(routes.targets(query)[0], usage).cost

    return price


class _Server(uvicorn.Server):
    """Tells open streams to go on elsewhere as soon as it is told to stop, not once they have ended.

    Lets go of clients that take in nothing for `reader_timeout` seconds: the system watches over what it has sent, so
    that costs nothing for each token, and finds readers out that have gone without a word.
    """

    def __init__(self, config: uvicorn.Config, gate: Gate, *, reader_timeout: float) -> None:
        super().__init__(config)
        self._gate = gate
        self._reader_timeout = int(reader_timeout * 1000)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sys.platform == "linux" and self.started:
            for listening in [each for server in self.servers for each in server.sockets]:
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._reader_timeout)

    async def on_tick(self, counter: int) -> bool:
        self._gate.sweep()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        app: FastAPI = self.config.app  # type: ignore[assignment]
        services: Services | None = getattr(app.state, "services", None)  # None while it starts
        if services is not None:
            services.hub.close()


def serve(settings: Settings, host: str, port: int) -> bool:
    """Serve until SIGTERM or Ctrl-C; False where it could not start. Raises ConfigurationError."""
    configure(level=settings.log_level, form=settings.log_format)
    arm(settings.crash_at)
    asyncio.run(_check_keys(settings))
    gate = Gate(
        head=settings.max_head, timeout=settings.request_timeout, connections=room_for(settings.max_connections)
    )
    config = uvicorn.Config(
        create_app(settings),
        host=host,
        port=port,
        loop="uvloop",
        http=gate.protocol(),
        ws="none",
        backlog=4096,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=int(settings.shutdown_grace),
    )
    server = _Server(config, gate, reader_timeout=settings.reader_timeout)
    server.run()
    return server.started
