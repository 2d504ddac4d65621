"""The state of the database, for those who run the service."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.errors import Unavailable
from runstream.storage.database import answering
from runstream.storage.tables import metadata
from runstream.storage.tenancy import Role, tenant_column

_STATE = text(
    "SELECT current_setting('server_version_num')::int / 10000 AS major,"
    " current_setting('server_version') AS version,"
    " current_setting('transaction_read_only') = 'on' AS read_only,"
    " coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS can_create"
)
_REFUSED = text(
    "SELECT name FROM unnest(cast(:tables AS text[])) AS name"
    " WHERE to_regclass(name) IS NOT NULL AND NOT ("
    " has_table_privilege(name, 'SELECT') AND has_table_privilege(name, 'INSERT')"
    " AND has_table_privilege(name, 'UPDATE'))"
    " ORDER BY name"
)


_WALL = text("""
    WITH passing AS (
        SELECT polrelid AS of, role FROM pg_policy, unnest(polroles) AS role
        WHERE polname <> 'application' AND polpermissive AND polrelid IN (
            SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name)
    )
    SELECT to_regclass('runs') IS NOT NULL AS built, session_user AS login, current_user AS role,
        ARRAY(SELECT name FROM unnest(CAST(:tables AS text[])) AS name
            WHERE to_regclass(name) IS NOT NULL AND (NOT row_security_active(name) OR EXISTS (
                SELECT FROM passing WHERE of = to_regclass(name) AND (role = 0 OR pg_has_role(role, 'USAGE'))))
            ORDER BY name) AS open,
        EXISTS (SELECT FROM pg_roles WHERE pg_has_role(session_user, oid, 'MEMBER') AND (
            rolsuper OR rolbypassrls OR oid IN (SELECT role FROM passing)
            OR oid = (SELECT relowner FROM pg_class WHERE oid = to_regclass('runs')))) AS passes
""")
"""A policy of any name but the application's lets those pass whom it is for; of role 0 it is for all."""

log = structlog.get_logger(__name__)

OF_TENANTS = [table.name for table in metadata.sorted_tables if tenant_column(table)]


@dataclass(frozen=True, slots=True)
class Wall:
    """`built` is whether there are tables; `open` are those that show the application's connections all tenants' rows.

    `passes` is whether the login could see them: as who owns the tables, by a policy, or by taking on another role.
    """

    built: bool
    login: str
    role: str
    open: Sequence[str]
    passes: bool

    @property
    def stands(self) -> bool:
        """Whether a query that forgot its tenant is shown nothing."""
        return self.role == Role.APPLICATION and not self.open


@dataclass(frozen=True, slots=True)
class Condition:
    """`refused` are the tables that our role may not write; `can_create` is whether it may make new ones."""

    major: int
    version: str
    read_only: bool
    can_create: bool
    refused: tuple[str, ...]


async def condition(engine: AsyncEngine, tables: Sequence[str] = tuple(metadata.tables)) -> Condition:
    """Of what is needed of these tables. Changes nothing. Raises Unavailable."""
    with answering():
        async with engine.connect() as connection:
            state = (await connection.execute(_STATE)).one()
            refused = tuple(await connection.scalars(_REFUSED, {"tables": list(tables)}))
    return Condition(state.major, state.version, state.read_only, state.can_create, refused)


async def wall(engine: AsyncEngine) -> Wall:
    """What keeps the application's connections to their tenants. Raises Unavailable."""
    with answering():
        async with engine.connect() as connection:
            row = (await connection.execute(_WALL, {"tables": OF_TENANTS})).one()
    return Wall(row.built, row.login, row.role, row.open, row.passes)


async def warn_of_wall(engine: AsyncEngine) -> None:
    """Say in the log where nothing keeps the application's connections to their tenants. Quiet without an answer."""
    try:
        found = await wall(engine)
    except Unavailable:
        return
    if found.built and not found.stands:
        log.warning("second_wall_down", login=found.login, role=found.role, tables=list(found.open))
