"""One Postgres and one Valkey for all systems, emptied between measurements; both keep what they are given on disk."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis

from runstream.embedded.postgres import Postgres
from runstream.embedded.valkey import Valkey


@dataclass(frozen=True)
class Services:
    database_url: str
    redis_url: str
    processes: tuple[int, int]
    names: "count[int]" = field(default_factory=count)

    @asynccontextmanager
    async def database(self, template: str = "template1") -> AsyncIterator[str]:
        """The URL of a new database, dropped with all its connections at the end."""
        name = f"bench_{next(self.names)}"
        await self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            yield self.url_of(name)
        finally:
            await self.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def url_of(self, database: str) -> str:
        return urlsplit(self.database_url)._replace(path=f"/{database}").geturl()

    async def execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.database_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def empty_redis(self) -> None:
        async with Redis.from_url(self.redis_url) as redis:
            await redis.flushall()


@contextmanager
def services(directory: Path) -> Iterator[Services]:
    with (
        Postgres(directory / "postgres", durable=True) as postgres,
        Valkey(directory / "valkey", durable=True) as valkey,
    ):
        yield Services(postgres.url, valkey.url, (postgres.pid, valkey.pid))
