"""Put up the second wall: the roles, what they may do, and the policies that show each of them its rows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import String, Table, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from runstream.storage.tables import metadata
from runstream.storage.tenancy import SETTING, Role, tenant_column

LOCK: Final = 0x72756E7374726561
"""One migration at a time: an advisory lock by this number ("runstrea")."""

_VERSION = "alembic_version"
_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")
_WHOSE = f"(SELECT nullif(current_setting('{SETTING}', true), '')::text[])::text[]"
"""A subquery is evaluated once for a statement, not for each row."""

# What is there already, and what this login may not do, is left as it is: others may have done it, or may do it yet.
_MAKE_ROLE = """
    DO $$ BEGIN CREATE ROLE {role} NOLOGIN;
    EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL; END $$
"""
_JOIN_ROLE = """
    DO $$ BEGIN
        IF NOT pg_has_role('{role}', 'USAGE') THEN GRANT {role} TO CURRENT_USER; END IF;
    EXCEPTION WHEN insufficient_privilege THEN NULL; END $$
"""
_GRANT_REMOVAL = f"""
    DO $$ BEGIN
        IF to_regproc('remove_audit') IS NOT NULL
            AND NOT has_function_privilege('{Role.SWEEP}', to_regproc('remove_audit'), 'EXECUTE')
        THEN GRANT EXECUTE ON FUNCTION remove_audit TO {Role.SWEEP};
        END IF;
    END $$
"""
_USE_SCHEMA = """
    DO $$ BEGIN
        IF NOT has_schema_privilege('{role}', current_schema(), 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO {role}', current_schema());
        END IF;
    END $$
"""
_ROLES = bindparam("roles", list(Role), type_=ARRAY(String))
_THERE = text("SELECT rolname FROM pg_roles WHERE rolname = ANY (:roles)").bindparams(_ROLES)
_LACKS = text("""
    SELECT privilege FROM unnest(CAST(:privileges AS text[])) AS privilege
    WHERE NOT has_table_privilege(:role, CAST(:table AS text), privilege)
""")
_STANDS = text("SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass(:table)")
_OTHERS = text("""
    SELECT DISTINCT quote_ident(pg_get_userbyid(grantee)) FROM pg_class, aclexplode(relacl)
    WHERE pg_class.oid = to_regclass(:table) AND grantee <> relowner AND grantee <> 0
        AND pg_get_userbyid(grantee) <> ALL (:roles)
""").bindparams(_ROLES)


async def raise_wall(url: URL, patience: float) -> None:
    """Bind the application's role to its statements' tenants, in all tables that have any, and let the sweep's pass.

    Nothing where the roles are not there and this login may not make them. A table at a time: statements that go on
    meanwhile lock several, in any order. Who had rights on a table of its owner's keeps them, for the processes of the
    version before. Safe to call again, and from several places at once.
    """
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            async with _step(connection, patience):
                await _make_roles(connection)
                there = set((await connection.execute(_THERE)).scalars())
            if there != set(Role):
                return
            for table in metadata.sorted_tables:
                async with _step(connection, patience):
                    await _protect(connection, table)
            async with _step(connection, patience):
                await connection.execute(text(_GRANT_REMOVAL))
            async with _step(connection, patience):
                for role in Role:  # last: it says that all else is done
                    await _grant(connection, role, _VERSION, "SELECT")
    finally:
        await engine.dispose()


@asynccontextmanager
async def _step(connection: AsyncConnection, patience: float) -> AsyncIterator[None]:
    async with connection.begin():
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        wait = {"ms": str(int(patience * 1000))}
        await connection.execute(text("SELECT set_config('lock_timeout', :ms, true)"), wait)
        yield


async def _make_roles(connection: AsyncConnection) -> None:
    for role in Role:
        await connection.execute(text(_MAKE_ROLE.format(role=role)))
    for role in (await connection.execute(_THERE)).scalars().all():
        await connection.execute(text(_JOIN_ROLE.format(role=role)))
        await connection.execute(text(_USE_SCHEMA.format(role=role)))


async def _protect(connection: AsyncConnection, table: Table) -> None:
    tenant = tenant_column(table)
    await _grant(connection, Role.SWEEP, table.name, *_ALL)
    if tenant is None:
        return
    await _grant(connection, Role.APPLICATION, table.name, *_ALL)
    if not (await connection.execute(_STANDS, {"table": table.name})).scalar_one():
        others = (await connection.execute(_OTHERS, {"table": table.name})).scalars().all()
        policies = {
            "application": (Role.APPLICATION, f"{tenant} = ANY ({_WHOSE})"),
            "sweep": (Role.SWEEP, "true"),
            **({"others": (", ".join(others), "true")} if others else {}),
        }
        for name, (roles, rows) in policies.items():
            await connection.execute(text(f"CREATE POLICY {name} ON {table.name} TO {roles} USING ({rows})"))
        await connection.execute(text(f"ALTER TABLE {table.name} ENABLE ROW LEVEL SECURITY"))


async def _grant(connection: AsyncConnection, role: Role, table: str, *privileges: str) -> None:
    asked = {"role": role, "table": table, "privileges": list(privileges)}
    if missing := (await connection.execute(_LACKS, asked)).scalars().all():
        await connection.execute(text(f"GRANT {', '.join(missing)} ON {table} TO {role}"))
