"""Whatever a statement forgets, Postgres shows it the rows of those tenants alone that it says it is for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    ARRAY,
    Boolean,
    Column,
    Date,
    DateTime,
    LargeBinary,
    Numeric,
    Table,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy import types as sql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.principal import Kind
from runstream.storage.database import connect
from runstream.storage.deliveries import DeliveryStore, Waiting
from runstream.storage.keys import KeyStore, NewKey
from runstream.storage.tables import audit, metadata, runs, webhook_deliveries
from runstream.storage.tenancy import WHOSE, Role, bound, tenant_column

DEADLINE = 60
A, B = "acme", "bose"
WITH_TENANTS = [table for table in metadata.sorted_tables if tenant_column(table)]
KNOWN = {
    "runs": {"status": "completed", "finished_at": datetime.now(UTC)},
    "attempts": {"outcome": "completed", "ended_at": datetime.now(UTC)},
    "api_keys": {"kind": "server"},
    "webhook_deliveries": {"status": "delivered", "ended_at": datetime.now(UTC)},
    "feedback": {"verdict": "accepted"},
    "deletions": {"attempt": 1, "deleted_at": datetime.now(UTC)},
    "erasures": {"user_id": "ada"},
}
"""What a table's checks ask of a row. A table that is not named takes any values of its columns' types."""


@pytest.fixture
async def application(filled: str) -> AsyncIterator[AsyncEngine]:
    engine = connect(filled, pool_size=2, timeout=DEADLINE, role=Role.APPLICATION)
    yield engine
    await engine.dispose()


@pytest.fixture
async def sweep(filled: str) -> AsyncIterator[AsyncEngine]:
    engine = connect(filled, pool_size=1, timeout=DEADLINE, role=Role.SWEEP)
    yield engine
    await engine.dispose()


@pytest.fixture
async def filled(database_url: str) -> str:
    """A row of each of two tenants in each table that has tenants."""
    engine = connect(database_url, pool_size=1, timeout=DEADLINE)
    async with engine.connect() as connection:
        for table in WITH_TENANTS:
            for tenant in (A, B):
                await connection.execute(insert(table).values(**row(table, tenant)))
    await engine.dispose()
    return database_url


@pytest.mark.promise("P7")
async def test_a_query_that_forgot_its_tenant_shows_nothing_of_anothers_in_any_table(
    application: AsyncEngine, sweep: AsyncEngine
) -> None:
    for table in WITH_TENANTS:
        assert await owners(application, table, [A]) == {A}, table
        assert await owners(application, table, [A, B]) == {A, B}, table
        assert await owners(application, table, []) == set(), table
        assert await owners(application, table, None) == set(), table
        assert await owners(sweep, table, None) == {A, B}, table
        async with application.connect() as connection:
            assert (await connection.execute(select(table))).all() == [], f"{table}: it is not said whose it is"


@pytest.mark.promise("P7")
async def test_a_write_that_forgot_its_tenant_changes_nothing_of_anothers_in_any_table(
    application: AsyncEngine, sweep: AsyncEngine
) -> None:
    for table in reversed(WITH_TENANTS):
        name = tenant_column(table)
        if table is audit:
            continue
        everything = bound(update(table).values({name: table.c[name]}).returning(table.c[name]))
        assert await ask(application, everything, [A]) == [A], table
        with pytest.raises(DBAPIError, match="row-level security"):
            await ask(application, bound(update(table).values({name: B}).returning(table.c[name])), [A])
        new = {**row(table, B), **another(table)}
        with pytest.raises(DBAPIError, match="row-level security"):
            await ask(application, bound(insert(table).values(**new).returning(table.c[name])), [A])
        assert await ask(application, bound(delete(table).returning(table.c[name])), [A]) == [A], table
        assert await owners(sweep, table, None) == {B}, table


async def test_the_audit_log_is_written_for_its_tenant_changed_by_nobody_and_cleared_by_the_sweeps_role_alone(
    application: AsyncEngine, sweep: AsyncEngine
) -> None:
    owner, remove = audit.c.tenant, text("SELECT remove_audit(:tenant, now() + interval '1 day')")
    with pytest.raises(DBAPIError, match="row-level security"):
        await ask(application, bound(insert(audit).values(**{**row(audit, B), "id": "aud_1"}).returning(owner)), [A])
    for engine in (application, sweep):
        for change in (update(audit).values(action="x"), delete(audit)):
            with pytest.raises(DBAPIError, match="only appended to"):
                await ask(engine, bound(change.returning(owner)), [A])
    async with application.connect() as connection:
        with pytest.raises(DBAPIError, match="permission denied for function"):
            await connection.execute(remove, {"tenant": A})
    async with sweep.connect() as connection:
        assert (await connection.execute(remove, {"tenant": A})).scalar_one() == 1
    assert await owners(sweep, audit, None) == {B}


@pytest.mark.promise("P7")
async def test_secrets_of_webhooks_and_whose_a_key_is_are_found_by_who_may_alone(
    application: AsyncEngine, sweep: AsyncEngine
) -> None:
    async with sweep.connect() as connection:
        await connection.execute(update(webhook_deliveries).values(status="pending", ended_at=None))
    store = DeliveryStore(application, sweep, patience=1)
    waiting = await store.waiting(beyond="", limit=9)
    assert [(each.webhook, each.tenant) for each in waiting] == [(A, A), (B, B)]
    assert await DeliveryStore(application, application, patience=1).waiting(beyond="", limit=9) == []
    wrong = [Waiting(each.webhook, A, due=True) for each in waiting]
    assert [taken.webhook.id for taken in await store.take(wrong, lease=60)] == [A]

    ours, every = KeyStore(application), KeyStore(sweep)
    new = NewKey("key_1", b"operator", "rs_")
    await every.add(new, kind=Kind.OPERATOR, tenant=None, user=None, scopes=[])
    hashes = [A.encode(), B.encode(), new.hash]
    assert len(await every.find(hashes)) == len(await every.all(None)) == 3
    assert await ours.find(hashes) == await ours.all(None) == []
    assert [key.id for key in await ours.all(A)] == [A]
    assert not await ours.revoke(None, new.id)
    with pytest.raises(DBAPIError, match="row-level security"):
        await ours.add(NewKey("key_2", b"another", "rs_"), kind=Kind.OPERATOR, tenant=None, user=None, scopes=[])


async def test_the_applications_role_may_not_use_what_has_no_tenant(application: AsyncEngine) -> None:
    for table in metadata.sorted_tables:
        if tenant_column(table) is None:
            assert not [key for key in table.foreign_keys if key.column.table.name == "tenants"], table
            async with application.connect() as connection:
                with pytest.raises(DBAPIError, match="permission denied"):
                    await connection.execute(select(table))


async def test_there_is_nothing_beside_the_tables_that_a_query_could_go_round_the_wall_by(sweep: AsyncEngine) -> None:
    """Views and functions may have their owner's rights; a sequence tells how much others do.

    Only the sweep's role may call the one that clears the audit log.
    """
    beside = """
        SELECT relname::text FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind NOT IN ('r', 'i')
        UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
            AND prosecdef AND has_function_privilege(:role, oid, 'EXECUTE')
    """
    async with sweep.connect() as connection:
        assert list(await connection.scalars(text(beside), {"role": Role.APPLICATION})) == []
        assert list(await connection.scalars(text(beside), {"role": Role.SWEEP})) == ["remove_audit"]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


steps = st.lists(st.tuples(st.sampled_from([A, B]), st.sampled_from(["read", "fail", "cancel", "begin"])), max_size=12)


@pytest.mark.promise("P7")
def test_nothing_of_whose_a_statement_was_stays_on_its_connection_however_it_ended(
    runner: asyncio.Runner, postgres_server: Any, filled: str
) -> None:
    engine = connect(filled, pool_size=2, timeout=DEADLINE, role=Role.APPLICATION)

    async def told(story: Sequence[tuple[str, str]]) -> None:
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as together:
            for tenant, step in story:
                together.create_task(do(engine, tenant, step))
        async with engine.connect() as one, engine.connect() as other:
            for connection in (one, other):
                assert (await connection.execute(select(runs.c.tenant))).all() == []

    @settings(derandomize=True, deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
    @given(steps)
    def tell(story: Sequence[tuple[str, str]]) -> None:
        runner.run(told(story))

    tell()
    runner.run(engine.dispose())


async def do(engine: AsyncEngine, tenant: str, step: str) -> None:
    """A statement of the tenant's, before which another one ended as `step` says."""
    sleep = text("WITH whose AS (SELECT :whose) SELECT pg_sleep(:seconds)").bindparams(WHOSE)
    match step:
        case "fail":
            with suppress(DBAPIError):
                await ask(engine, bound(select(func.sqrt(-1))), [tenant])
        case "cancel":
            with suppress(TimeoutError):
                async with asyncio.timeout(0.005), engine.connect() as connection:
                    await connection.execute(sleep, {"whose": [tenant], "seconds": DEADLINE})
        case "begin":
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="READ COMMITTED")
                transaction = await connection.begin()
                await connection.execute(sleep, {"whose": [tenant], "seconds": 0})
                await transaction.rollback()
    assert await owners(engine, runs, [tenant]) == {tenant}


async def owners(engine: AsyncEngine, table: Table, whose: Sequence[str] | None) -> set[str]:
    """Whose rows a query without a WHERE shows."""
    name = tenant_column(table)
    assert name is not None
    return set(await ask(engine, bound(select(table.c[name])), whose))


async def ask(engine: AsyncEngine, statement: Any, whose: Sequence[str] | None) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(statement, {"whose": whose})).scalars())


def row(table: Table, tenant: str) -> dict[str, Any]:
    """A row of the tenant's: whatever its columns take."""
    values = {column.name: value_of(column, tenant) for column in table.c if not column.nullable}
    return {**values, tenant_column(table) or "": tenant, **KNOWN.get(table.name, {})}


def another(table: Table) -> dict[str, Any]:
    """What tells one more row from those that are there, where its key is all its own."""
    first = next(iter(table.primary_key.columns))
    return {} if first.foreign_keys else {first.name: value_of(first, "c")}


def value_of(column: Column[Any], tenant: str) -> Any:
    now = datetime.now(UTC)
    values = {
        sql.String: tenant,
        Boolean: False,
        sql.Integer: 1,
        Numeric: 1,
        LargeBinary: tenant.encode(),
        DateTime: now,
        Date: now.date(),
        ARRAY: [],
        sql.JSON: {},
    }
    return next(value for kind, value in values.items() if isinstance(column.type, kind))
