"""The database for the length of one command, whose errors are for the person at the terminal."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.errors import Unavailable
from runstream.storage.database import BEHIND, connect
from runstream.storage.tenancy import Role


@asynccontextmanager
async def opened(url: str, seconds: float, role: Role | None = Role.SWEEP) -> AsyncIterator[AsyncEngine]:
    """One connection, made when it is needed; `seconds` bound what `connect` has `timeout` bound.

    Raises ConfigurationError, and Unavailable as `explained` has it.
    """
    engine = connect(url, pool_size=1, timeout=seconds, role=role)
    try:
        with explained():
            yield engine
    finally:
        await engine.dispose()


@contextmanager
def explained() -> Iterator[None]:
    """Say in Unavailable why Postgres cannot be used: people at a terminal need it, clients must not learn of it."""
    try:
        yield
    except Unavailable as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise Unavailable(f"The database cannot be used ({reason}): check RUNSTREAM_DATABASE_URL.") from error


def _reason(error: BaseException) -> str | None:
    """What the server or the system said; never a password. None where the error itself says all."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, (*BEHIND, asyncpg.LockNotAvailableError)):
        return None
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, asyncpg.PostgresError | OSError) else type(error).__name__
