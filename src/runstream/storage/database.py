"""The connection to Postgres."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import orjson
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from runstream.domain.errors import ConfigurationError, Unavailable


def asyncpg_url(url: str) -> URL:
    """`postgresql://` and `postgresql+asyncpg://` alike. Raises ConfigurationError."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError(
            "RUNSTREAM_DATABASE_URL is not a URL such as postgresql://user@host:5432/name."
        ) from None
    if parsed.drivername not in {"postgresql", "postgres", "postgresql+asyncpg"}:
        raise ConfigurationError("RUNSTREAM_DATABASE_URL must begin with postgresql://.")
    return parsed.set(drivername="postgresql+asyncpg")


def connect(url: str, *, pool_size: int, timeout: float) -> AsyncEngine:
    """A pool of at most `pool_size` connections. Each statement commits by itself: what must be one is one statement.

    `timeout`, in seconds, bounds the wait for a connection, for connecting, and for a statement.
    """
    return create_async_engine(
        asyncpg_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout,
        isolation_level="AUTOCOMMIT",
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={"timeout": timeout, "command_timeout": timeout},
    )


@contextmanager
def answering() -> Iterator[None]:
    """Raise Unavailable where Postgres could not be reached or did not answer in time."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError, TimeoutError, OSError) as error:
        raise Unavailable("The database does not answer: try again shortly.", retry_after=1) from error
    except DBAPIError as error:
        if not unreachable(error):
            raise
        raise Unavailable("The database does not answer: try again shortly.", retry_after=1) from error


def unreachable(error: DBAPIError) -> bool:
    """Whether a statement failed because of the connection or the server's state, not because of what it said."""
    cause = error.orig.__cause__ if error.orig is not None else None
    return error.connection_invalidated or isinstance(
        cause,
        asyncpg.PostgresConnectionError
        | asyncpg.OperatorInterventionError
        | asyncpg.InsufficientResourcesError
        | asyncpg.InterfaceError
        | asyncpg.ReadOnlySQLTransactionError
        | OSError
        | TimeoutError,
    )
