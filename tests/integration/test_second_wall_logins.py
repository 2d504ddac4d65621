"""Which logins the second wall stands for, and how it is put up while processes of the version before go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from runstream.doctor.tenants import check_tenants
from runstream.domain.errors import Unavailable
from runstream.domain.principal import Owner
from runstream.embedded import Postgres
from runstream.settings import Settings
from runstream.storage.condition import warn_of_wall
from runstream.storage.database import connect
from runstream.storage.leases import LeaseStore
from runstream.storage.lists import AllRuns
from runstream.storage.migrate import downgrade, upgrade
from runstream.storage.runs import RunStore
from runstream.storage.tenancy import Role

DEADLINE = 60
PASSWORD = "secret"
WRONG = "SELECT id FROM runs"
ROW = """
    INSERT INTO tenants (id) VALUES ('acme');
    INSERT INTO runs (id, tenant, user_id, feature, prompt_version, input, model, queue, status, max_attempts)
        VALUES ('run_1', 'acme', 'ada', 'chat', '1', '{}', 'fast', 'default', 'queued', 3);
"""


class Server:
    """A Postgres of the test's own: roles are the whole server's."""

    def __init__(self, server: Postgres) -> None:
        self._url = urlsplit(server.url)

    def url(self, login: str | None = None, database: str = "runstream") -> str:
        place = self._url._replace(path=f"/{database}")
        if login is not None:
            place = place._replace(netloc=f"{login}:{PASSWORD}@{place.hostname}:{place.port}")
        return place.geturl()

    async def execute(self, *statements: str, login: str | None = None, database: str = "runstream") -> None:
        async with plain(self.url(login, database)) as connection:
            for statement in statements:
                await connection.execute(statement)

    async def make(self, login: str, *options: str) -> None:
        await self.execute(f"CREATE ROLE {login} LOGIN PASSWORD '{PASSWORD}' {' '.join(options)}")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    from conftest import reachable_directory

    with reachable_directory() as directory, Postgres(Path(directory) / "postgres", durable=False) as postgres:
        yield Server(postgres)


@asynccontextmanager
async def plain(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, timeout=DEADLINE, command_timeout=DEADLINE)
    try:
        yield connection
    finally:
        await connection.close()


async def shown(url: str, role: Role | None = None) -> list[str]:
    """What a query that forgot its tenant shows to a process of that login."""
    engine = connect(url, pool_size=1, timeout=DEADLINE, role=role)
    try:
        async with engine.connect() as connection:
            return list((await connection.exec_driver_sql(WRONG)).scalars())
    finally:
        await engine.dispose()


async def doctor(url: str, sweep: str | None = None) -> list[tuple[str, str]]:
    findings = await check_tenants(Settings(_env_file=None, database_url=url, sweep_database_url=sweep))
    return [(finding.mark, finding.text) for finding in findings]


async def test_the_wall_is_put_up_once_the_roles_are_there_and_hides_nothing_from_who_saw_it_before(
    server: Server,
) -> None:
    await server.make("owner")
    await server.make("before")
    await server.execute("CREATE DATABASE ours OWNER owner")
    owner, before = server.url("owner", "ours"), server.url("before", "ours")
    await asyncio.to_thread(upgrade, owner)
    await server.execute(ROW, "GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO before", database="ours")
    assert await shown(owner, Role.APPLICATION) == ["run_1"], "it may make no roles"
    ((mark, said),) = await doctor(owner)
    assert mark == "advice"
    asked_for = said.partition("As a superuser: ")[2].partition("; then")[0]

    await server.execute(*asked_for.split("; "))
    await asyncio.to_thread(upgrade, owner)
    assert await shown(owner, Role.APPLICATION) == []
    assert await shown(owner, Role.SWEEP) == await shown(owner) == ["run_1"]
    assert await shown(before) == await shown(before, Role.SWEEP) == ["run_1"]
    await server.execute(f"GRANT {Role.APPLICATION} TO before")
    assert await shown(before, Role.APPLICATION) == []
    assert "as before can" in (await doctor(before))[0][1]
    ((mark, said),) = await doctor(owner)
    assert mark == "ok"
    assert "as owner can" in said

    await asyncio.to_thread(downgrade, owner, "0012")
    assert await shown(before) == ["run_1"]
    await asyncio.to_thread(upgrade, owner)
    assert await shown(owner, Role.APPLICATION) == []


async def test_a_process_says_when_it_starts_that_nothing_keeps_its_queries_to_their_tenant(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    await server.execute("CREATE DATABASE opened")
    url = server.url(database="opened")

    async def said() -> str:
        engine = connect(url, pool_size=1, timeout=DEADLINE, role=Role.APPLICATION)
        try:
            await warn_of_wall(engine)
        finally:
            await engine.dispose()
        return capsys.readouterr().out

    assert await said() == "", "there is nothing yet"
    await asyncio.to_thread(upgrade, url, "0012")
    assert "second_wall_down" in await said()
    await asyncio.to_thread(upgrade, url)
    assert await said() == ""
    await server.execute("CREATE POLICY all_of_it ON webhooks USING (true)", database="opened")
    assert "webhooks" in await said()
    ((mark, problem), *_) = await doctor(url)
    assert mark == "problem"
    assert "show all of webhooks" in problem


async def test_a_login_of_the_applications_own_cannot_see_all_whatever_it_tries(server: Server) -> None:
    await server.make("maker", "CREATEROLE")
    await server.execute("CREATE DATABASE strict OWNER maker")
    await asyncio.to_thread(upgrade, server.url(database="strict"))
    await server.execute(ROW, "ANALYZE", database="strict")
    await server.make("app", f"IN ROLE {Role.APPLICATION}")
    await server.make("service", f"IN ROLE {Role.SWEEP}")
    app, service = server.url("app", "strict"), server.url("service", "strict")
    assert await shown(app, Role.APPLICATION) == await shown(app) == []
    async with plain(app) as connection:
        for role in (Role.SWEEP, "service", "maker", "runstream"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"SET ROLE {role}")
        for attempt in (
            "SET row_security = off; SELECT id FROM runs",
            "ALTER TABLE runs DISABLE ROW LEVEL SECURITY",
            "DROP POLICY application ON runs",
            "ALTER ROLE app BYPASSRLS",
            "TRUNCATE runs CASCADE",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(attempt)
        with pytest.raises(asyncpg.FeatureNotSupportedError):
            await connection.copy_to_table("runs", source=BytesIO(b"run_2"), columns=["id"])
        copied = BytesIO()
        await connection.copy_from_table("runs", output=copied)
        assert copied.getvalue() == b""
        assert not await connection.fetch("SELECT FROM pg_stats WHERE schemaname = 'public' AND tablename = 'runs'")
        await connection.execute("RESET ROLE; RESET ALL")
        assert await connection.fetch(WRONG) == []
    sentences = [said for mark, said in await doctor(app, service) if mark == "ok"]
    assert sentences == [
        "A query that forgets its tenant is shown nothing, and app cannot take on a role that sees all."
    ]

    engine = connect(service, pool_size=1, timeout=DEADLINE, role=Role.SWEEP)
    try:
        assert await AllRuns(engine).find("run_1")
        assert await LeaseStore(engine).renew("wrk_1", "host", 1) == []
    finally:
        await engine.dispose()


async def test_a_sweep_that_would_be_blind_does_not_begin(server: Server) -> None:
    await server.execute("CREATE DATABASE blind")
    await asyncio.to_thread(upgrade, server.url(database="blind"))
    await server.make("alone", f"IN ROLE {Role.APPLICATION}")
    url = server.url("alone", "blind")
    with pytest.raises(Unavailable):
        await shown_to_the_sweep(url)
    problem = [said for mark, said in await doctor(url) if mark == "problem"]
    assert "no member of runstream_sweep" in problem[0]


async def shown_to_the_sweep(url: str) -> None:
    engine = connect(url, pool_size=1, timeout=DEADLINE, role=Role.SWEEP)
    try:
        await AllRuns(engine).counts()
    finally:
        await engine.dispose()


async def test_a_login_that_may_make_roles_needs_nobody_else(server: Server) -> None:
    """As managed Postgres has it. Roles of another name stand for those that there are by now."""
    async with plain(server.url()) as connection:
        for role in Role:
            await connection.execute(f"ALTER ROLE {role} RENAME TO {role}_of_others")
    try:
        await server.make("managed", "CREATEROLE")
        await server.execute("CREATE DATABASE managed OWNER managed")
        url = server.url("managed", "managed")
        for _ in range(2):
            await asyncio.to_thread(upgrade, url)
        await server.execute(ROW, login="managed", database="managed")
        assert await shown(url, Role.APPLICATION) == []
        assert await shown(url, Role.SWEEP) == ["run_1"]
        store = connect(url, pool_size=1, timeout=DEADLINE, role=Role.APPLICATION)
        assert await RunStore(store).get(Owner("acme", None), "run_1")
        await store.dispose()
    finally:
        await server.execute("DROP DATABASE managed WITH (FORCE)", *(f"DROP ROLE IF EXISTS {role}" for role in Role))
        async with plain(server.url()) as connection:
            for role in Role:
                await connection.execute(f"ALTER ROLE {role}_of_others RENAME TO {role}")
