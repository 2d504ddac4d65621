"""The state of the database, for those who run the service."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.storage.database import answering
from runstream.storage.tables import metadata

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


@dataclass(frozen=True, slots=True)
class Condition:
    """`refused` are the tables that our role may not write; `can_create` is whether it may make new ones."""

    major: int
    version: str
    read_only: bool
    can_create: bool
    refused: tuple[str, ...]


async def condition(engine: AsyncEngine) -> Condition:
    """Changes nothing. Raises Unavailable."""
    with answering():
        async with engine.connect() as connection:
            state = (await connection.execute(_STATE)).one()
            refused = tuple(await connection.scalars(_REFUSED, {"tables": list(metadata.tables)}))
    return Condition(state.major, state.version, state.read_only, state.can_create, refused)
