"""A real Postgres and a real Valkey for the tests: one of each a session, and nothing left from test to test."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
import redis

from caller import Caller
from runstream.embedded import Postgres, Valkey
from stack import Stack, outside_the_loop

DEADLINE = 60
LAST_LINES = 15
LONGEST_FIRST = ("acceptance", "chaos", "fuzz", "integration", "unit")

_stacks: list[Stack] = []
"""Those that stand now; a test that fails shows what their processes said last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes long: the processes that share the tests, file by file, end at about the same time then."""
    items.sort(key=lambda item: LONGEST_FIRST.index(item.path.relative_to(Path(__file__).parent).parts[0]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for number, stack in enumerate(_stacks, start=1):
            for name, output in stack.outputs().items():
                last = "\n".join(output.splitlines()[-LAST_LINES:])
                report.sections.append((f"stack {number}, {name}", last))
    return report


@contextmanager
def reachable_directory() -> Iterator[Path]:
    """Make a temporary directory that the servers can enter though root starts them; `tmp_path` is not one."""
    with tempfile.TemporaryDirectory(prefix="runstream-test-") as name:
        if os.geteuid() == 0:
            os.chmod(name, 0o711)
        yield Path(name)


@pytest.fixture
def server_directory() -> Iterator[Path]:
    """A directory for servers of the test's own, which it may kill."""
    with reachable_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The session's Postgres: not to be stopped or killed by a test."""
    with reachable_directory() as directory, Postgres(directory / "postgres", durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    """The session's Valkey: not to be stopped or killed by a test."""
    with reachable_directory() as directory, Valkey(directory / "valkey", durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres_server: Postgres) -> str:
    """The name of a migrated database, to be copied; nobody may be connected to it."""
    from runstream.storage.migrate import upgrade

    name = "template_migrated"
    _execute(postgres_server, f"CREATE DATABASE {name}")
    outside_the_loop(lambda: upgrade(_database(postgres_server, name)))
    return name


@pytest.fixture
def database_url(postgres_server: Postgres, migrated_template: str) -> Iterator[str]:
    """The URL of a fresh database with the newest schema and no rows."""
    with _fresh_database(postgres_server, migrated_template) as url:
        yield url


@pytest.fixture(scope="module")
def shared_database_url(postgres_server: Postgres, migrated_template: str) -> Iterator[str]:
    """As `database_url`, for the tests of one file."""
    with _fresh_database(postgres_server, migrated_template) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_server: Postgres) -> Iterator[str]:
    """The URL of a fresh database without any table."""
    with _fresh_database(postgres_server, "template0") as url:
        yield url


@pytest.fixture
def redis_url(valkey_server: Valkey) -> str:
    """The URL of a Valkey as if just started.

    All of it is the test's: databases chosen by number would share their pub/sub channels. Clients that an
    earlier test left behind are cut off first, so that they write nothing afterwards.
    """
    with redis.Redis.from_url(valkey_server.url, socket_timeout=DEADLINE) as client:
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(_type=kind, skipme=True)
        client.flushall()
        client.script_flush()
        client.function_flush()
        client.config_resetstat()
    return valkey_server.url


@pytest.fixture(scope="session")
def stack(postgres_server: Postgres, migrated_template: str) -> Iterator[Stack]:
    """One API process and one worker, shared by the tests: not to be stopped, and other tests' runs are in it."""
    with _fresh_database(postgres_server, migrated_template) as url, _standing(url, {}) as stack:
        stack.start(apis=1, workers=1)
        yield stack


@pytest.fixture
def make_stack(postgres_server: Postgres, migrated_template: str) -> Iterator[Callable[..., Stack]]:
    """Makes stacks of the test's own, of which anything may be killed and emptied but the session's Postgres.

    `make_stack(apis=1, workers=1, database_url=None, **environment)`: without a URL it has a fresh, migrated
    database; variables are named without their `RUNSTREAM_`, in lower case.
    """
    with _stack_maker(postgres_server, migrated_template) as make:
        yield make


@pytest.fixture(scope="module")
def make_shared_stack(postgres_server: Postgres, migrated_template: str) -> Iterator[Callable[..., Stack]]:
    """As `make_stack`, for stacks that the tests of one file share."""
    with _stack_maker(postgres_server, migrated_template) as make:
        yield make


@pytest.fixture
async def caller(stack: Stack) -> AsyncIterator[Caller]:
    """A user of a tenant of the test's own, on the shared stack."""
    async with Caller.of(stack, f"tenant-{uuid4().hex}", "ada") as caller:
        yield caller


@pytest.fixture(scope="session")
def unworked_url(stack: Stack) -> Iterator[str]:
    """An API process of the shared stack whose queue has no worker: runs that it accepts stay queued."""
    api = stack.start_api(queue="unworked")
    yield api.url
    stack.kill(api)


@pytest.fixture
async def unworked(stack: Stack, unworked_url: str) -> AsyncIterator[Caller]:
    """A user of a tenant of the test's own, whose runs stay queued."""
    async with Caller.of(stack, f"tenant-{uuid4().hex}", "ada", url=unworked_url) as caller:
        yield caller


@contextmanager
def _stack_maker(server: Postgres, template: str) -> Iterator[Callable[..., Stack]]:
    with ExitStack() as stacks:

        def make(*, apis: int = 1, workers: int = 1, database_url: str | None = None, **environment: str) -> Stack:
            url = database_url or stacks.enter_context(_fresh_database(server, template))
            stack = stacks.enter_context(_standing(url, environment))
            stack.start(apis=apis, workers=workers)
            return stack

        yield make


@contextmanager
def _standing(database_url: str, environment: dict[str, str]) -> Iterator[Stack]:
    with reachable_directory() as directory:
        stack = Stack(directory, database_url=database_url, environment=environment)
        _stacks.append(stack)
        try:
            yield stack
        finally:
            _stacks.remove(stack)
            stack.end()


@contextmanager
def _fresh_database(server: Postgres, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield _database(server, name)
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _database(server: Postgres, name: str) -> str:
    return urlsplit(server.url)._replace(path=f"/{name}").geturl()


def _execute(server: Postgres, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(server.url, timeout=DEADLINE, command_timeout=DEADLINE)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    outside_the_loop(lambda: asyncio.run(run()))
