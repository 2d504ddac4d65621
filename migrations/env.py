"""How alembic reaches the database: by the URL that it was given, else by RUNSTREAM_DATABASE_URL."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from runstream.storage.database import asyncpg_url
from runstream.storage.tables import metadata
from runstream.storage.wall import LOCK


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        if patience := context.config.attributes.get("patience"):
            connection.execute(text("SELECT set_config('lock_timeout', :ms, true)"), {"ms": str(int(patience * 1000))})
        context.run_migrations()


async def connect_and_migrate() -> None:
    url = context.config.attributes.get("url") or asyncpg_url(os.environ["RUNSTREAM_DATABASE_URL"])
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
        await connection.commit()
    await engine.dispose()


asyncio.run(connect_and_migrate())
