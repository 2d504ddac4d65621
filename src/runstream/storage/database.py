"""The connection to Postgres."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature
from math import inf
from time import monotonic
from typing import Any

import asyncpg
import orjson
from sqlalchemy import Executable, Row, event
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from runstream.domain.errors import ConfigurationError, Unavailable
from runstream.storage.tenancy import Role

OVERALL = 2
"""Connections of a process with the sweep's rights: none of what they are for is asked for each run."""
_PARAMETERS = frozenset(signature(asyncpg.connect).parameters)
_TAKE_ROLE = """
    SELECT set_config('role', rolname, false) FROM pg_roles
    WHERE rolname = $1 AND pg_has_role(oid, 'MEMBER')
        AND has_table_privilege(oid, to_regclass('alembic_version'), 'SELECT')
"""
"""Only where the tables are ready for it, which their last grant says."""
_SEES_SOME = """
    SELECT row_security_active(to_regclass('runs')) AND NOT EXISTS (
        SELECT FROM pg_policy, unnest(polroles) AS role
        WHERE polrelid = to_regclass('runs') AND polname IN ('sweep', 'others') AND pg_has_role(role, 'USAGE')
    )
"""
BEHIND = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedObjectError)
"""Errors of a database that has not been migrated."""
_DRIVERS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""All that the driver raises, beside what the network does."""
_AGAIN = 60.0
"""Seconds that a connection is used which has not the role that it is for: the tables may have become ready for it."""


def asyncpg_url(url: str, variable: str = "RUNSTREAM_DATABASE_URL") -> URL:
    """`postgresql://` and `postgresql+asyncpg://` alike, libpq's `sslmode` included.

    Raises ConfigurationError, which names the variable that the URL is from.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter names what it took for a port, which may be of a password
        raise ConfigurationError(
            f"{variable} is not a URL such as postgresql://user@host:5432/name; "
            "'@', '/' and ':' in a password are to be written as %40, %2F and %3A."
        ) from None
    if parsed.drivername not in {"postgresql", "postgres", "postgresql+asyncpg"}:
        raise ConfigurationError(f"{variable} must begin with postgresql://.")
    query = {"ssl" if name == "sslmode" else name: value for name, value in parsed.query.items()}
    if unknown := query.keys() - _PARAMETERS:
        raise ConfigurationError(f"{variable} has a parameter that is not known: {min(unknown)!r}.")
    return parsed.set(drivername="postgresql+asyncpg", query=query)


def connect(url: str, *, pool_size: int, timeout: float, role: Role | None = None) -> AsyncEngine:
    """A pool of at most `pool_size` connections. Each statement commits by itself: what must be one is one statement.
    What a statement was given is in no error: it may be a prompt.

    Connections have the rights of `role`, where there is such a one and the login is a member of it; else the login's.

    `timeout`, in seconds, bounds the wait for a connection, for connecting, and for a statement.
    """
    engine = create_async_engine(
        asyncpg_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout,
        isolation_level="AUTOCOMMIT",
        pool_reset_on_return=None,  # nothing to roll back
        hide_parameters=True,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={"timeout": timeout, "command_timeout": timeout},
    )
    if role is not None:
        event.listen(engine.sync_engine, "connect", partial(_take_role, role))
    event.listen(engine.sync_engine, "checkout", _refuse_spent)
    event.listen(engine.sync_engine, "handle_error", _give_up_confused)
    return engine


def _take_role(role: Role, connection: Any, record: Any) -> None:
    """Raises PermissionError where the sweep would not see what it is to see, and would find nothing to do.

    Raises ConnectionError where the server does not answer: what is raised here is not made SQLAlchemy's.
    """

    async def take(driver: "asyncpg.Connection[asyncpg.Record]") -> None:
        if await driver.fetchval(_TAKE_ROLE, role) is None:
            record.info["until"] = monotonic() + _AGAIN
            if role is Role.SWEEP and await driver.fetchval(_SEES_SOME):
                raise PermissionError(f"the login is no member of {role}, and does not see the rows of all tenants")

    try:
        connection.run_async(take)
    except _DRIVERS as error:
        raise ConnectionError(f"the role was not taken: {type(error).__name__}") from error


def _refuse_spent(connection: Any, record: Any, _proxy: object) -> None:
    """Have the pool open another connection in place of one that the server has closed: at no round trip."""
    if connection.driver_connection.is_closed() or monotonic() > record.info.get("until", inf):
        raise DisconnectionError


def _give_up_confused(failure: ExceptionContext) -> None:
    """Of a connection whose protocol the driver has lost track of, nothing is to be expected any more."""
    if isinstance(failure.original_exception.__cause__, asyncpg.InternalClientError):
        failure.is_disconnect = True
        failure.invalidate_pool_on_disconnect = False


async def open_pool(engine: AsyncEngine, connections: int) -> None:
    """Open that many connections now, so that the first burst of requests does not pay for them.

    What fails is left to the first request, which says what is wrong.
    """
    opening = [engine.connect() for _ in range(connections)]
    await asyncio.gather(*(connection.start() for connection in opening), return_exceptions=True)
    await asyncio.gather(*(connection.close() for connection in opening), return_exceptions=True)


async def ask(engine: AsyncEngine, statement: Executable, **values: Any) -> Sequence[Row[*tuple[Any, ...]]]:
    """The rows that one statement answers. Raises Unavailable."""
    with answering():
        async with engine.connect() as connection:
            return (await connection.execute(statement, values)).all()


async def tell(engine: AsyncEngine, statement: Executable, **values: Any) -> int:
    """How many rows a statement changed that answers none. Raises Unavailable."""
    with answering():
        async with engine.connect() as connection:
            return (await connection.execute(statement, values)).rowcount


@contextmanager
def answering() -> Iterator[None]:
    """Raise Unavailable where Postgres could not be reached or did not answer in time."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError, TimeoutError, OSError) as error:
        raise Unavailable("The database does not answer: try again shortly.", retry_after=1) from error
    except DBAPIError as error:
        if isinstance(_cause(error), BEHIND):
            raise Unavailable("The database's tables are not up to date: run 'runstream migrate'.") from error
        if not unreachable(error):
            raise
        raise Unavailable("The database does not answer: try again shortly.", retry_after=1) from error


def connection_lost(error: Unavailable) -> bool:
    """Whether the connection broke while a statement was under way: it may have been done, or not."""
    return isinstance(error.__cause__, DBAPIError) and error.__cause__.connection_invalidated


def unreachable(error: DBAPIError) -> bool:
    """Whether a statement failed because of the connection or the server's state, not because of what it said."""
    return error.connection_invalidated or isinstance(
        _cause(error),
        asyncpg.PostgresConnectionError
        | asyncpg.InvalidAuthorizationSpecificationError
        | asyncpg.InvalidCatalogNameError
        | asyncpg.OperatorInterventionError
        | asyncpg.InsufficientResourcesError
        | asyncpg.InterfaceError
        | asyncpg.ReadOnlySQLTransactionError
        | asyncpg.DeadlockDetectedError
        | asyncpg.InternalClientError
        | OSError
        | TimeoutError,
    )


def _cause(error: DBAPIError) -> BaseException | None:
    return error.orig.__cause__ if error.orig is not None else None
