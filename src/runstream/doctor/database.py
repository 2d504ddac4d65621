"""Can Postgres be used, and are its tables those of this version?"""

from collections.abc import Sequence

from runstream.doctor.finding import Finding, Mark
from runstream.domain.errors import RunstreamError
from runstream.settings import Settings
from runstream.storage.command import opened
from runstream.storage.condition import OF_TENANTS, condition
from runstream.storage.migrate import pending
from runstream.storage.tenancy import Role

_OLDEST = 14
"""Of PostgreSQL's major versions that are maintained."""


async def check_database(settings: Settings) -> Sequence[Finding]:
    """Raises RunstreamError."""
    async with opened(settings.database_login, settings.database_timeout, Role.APPLICATION) as engine:
        found = await condition(engine, OF_TENANTS)
    if found.read_only:
        text = "It takes no writes: RUNSTREAM_DATABASE_URL has to name the primary, and a role that may write."
        return [Finding(Mark.PROBLEM, "database", text)]
    if found.refused:
        roles = Role.APPLICATION if settings.sweep_database_url else " and ".join(Role)
        text = f"This login may not write {', '.join(found.refused)}: make it a member of {roles}."
        return [Finding(Mark.PROBLEM, "database", text)]
    if found.major < _OLDEST:
        text = f"PostgreSQL {found.version} is not maintained any more: use {_OLDEST} or later."
        return [Finding(Mark.ADVICE, "database", text)]
    return [Finding(Mark.OK, "database", f"PostgreSQL {found.version} answers and takes writes.")]


async def check_migrations(settings: Settings) -> Sequence[Finding]:
    """Whether the tables can be used, which without a database cannot be told."""
    try:
        async with opened(settings.database_login, settings.database_timeout, None) as engine:
            missing = await pending(engine)
            can_create = missing is None or (await condition(engine)).can_create
    except RunstreamError:
        text = "They cannot be seen while the database cannot be used."
        return [Finding(Mark.PROBLEM, "migrations", text)]
    if missing is None:
        return [Finding(Mark.OK, "migrations", "The tables are up to date.")]
    text = f"The tables are not those of revision {missing}: run 'runstream migrate'" + (
        "." if can_create else ", as a role that may create tables."
    )
    return [Finding(Mark.PROBLEM, "migrations", text)]
