"""A real Postgres and a real Valkey for the tests: one of each a session, and nothing left from test to test."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
import redis

from runstream.embedded import Postgres, Valkey

DEADLINE = 60


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
    _outside_the_loop(lambda: upgrade(_database(postgres_server, name)))
    return name


@pytest.fixture
def database_url(postgres_server: Postgres, migrated_template: str) -> Iterator[str]:
    """The URL of a fresh database with the newest schema and no rows."""
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

    _outside_the_loop(lambda: asyncio.run(run()))


def _outside_the_loop(call: Callable[[], None]) -> None:
    """Call in a thread: an event loop that is run here would take the place of the one that the tests share."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(call).result()
