"""Bring the database's tables to the state that this version needs."""

import asyncio
from importlib.resources import files
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.errors import Unavailable
from runstream.storage.database import answering, asyncpg_url
from runstream.storage.wall import raise_wall

_PATIENCE = 10.0
"""As long as requests wait for Postgres by default."""


def upgrade(url: str, revision: str = "head", *, patience: float = _PATIENCE) -> None:
    """Run the missing migrations. Safe to call from several processes at once. Must not be called in a running loop.

    `patience`, in seconds, is how long one waits for a table that is in use, as by a backup: all that is asked of the
    table meanwhile waits behind it. Raises ConfigurationError, Unavailable; then nothing has changed.
    """
    config = _config(url)
    config.attributes["patience"] = patience
    try:
        with answering():
            command.upgrade(config, revision)
            if revision == "head":
                asyncio.run(raise_wall(asyncpg_url(url), patience))
    except DBAPIError as error:
        if error.orig is None or not isinstance(error.orig.__cause__, asyncpg.LockNotAvailableError):
            raise
        raise Unavailable("A table is in use, as by a backup: run 'runstream migrate' again once it is not.") from error


def downgrade(url: str, revision: str) -> None:
    """Undo migrations down to `revision`; "base" leaves no table of ours."""
    command.downgrade(_config(url), revision)


def check(url: str) -> None:
    """Raise alembic's error where the tables described in `tables` are not those that the migrations make."""
    command.check(_config(url))


async def pending(engine: AsyncEngine) -> str | None:
    """The revision that is missing, or None where the database is up to date, or ready for a later version."""
    before, head = _known()
    with answering():
        async with engine.connect() as connection:
            current = await connection.run_sync(_current)
    return head if current is None or current in before else None


def _known() -> tuple[set[str], str]:
    """The revisions before the last one, and that."""
    head, *before = [script.revision for script in ScriptDirectory(str(_directory())).walk_revisions()]
    return set(before), head


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_directory()).replace("%", "%%"))
    config.attributes["url"] = asyncpg_url(url)
    return config


def _directory() -> Path:
    """In a wheel the migrations travel inside the package, in a checkout they stand beside `src`."""
    package = Path(str(files("runstream")))
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parents[1] / "migrations"
