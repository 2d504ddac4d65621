"""Does Postgres keep tenants apart, though a query may forget to?"""

from collections.abc import Sequence

from runstream.doctor.finding import Finding, Mark
from runstream.domain.errors import RunstreamError
from runstream.settings import Settings
from runstream.storage.command import opened
from runstream.storage.condition import Wall, condition, wall
from runstream.storage.tenancy import Role

_PART = "tenants"


async def check_tenants(settings: Settings) -> Sequence[Finding]:
    """Both sides of it: what the application is shown, and what the sweep is. Nothing without a database."""
    try:
        async with opened(settings.database_login, settings.database_timeout, Role.APPLICATION) as engine:
            found = await wall(engine)
    except RunstreamError:
        return []
    return [_application(found), *await _sweep(settings)] if found.built else []


def _application(found: Wall) -> Finding:
    if found.role != Role.APPLICATION:
        text = (
            f"A query that forgot its tenant would show all: {found.login} is no member of {Role.APPLICATION}. "
            f"As a superuser: CREATE ROLE {Role.APPLICATION}; CREATE ROLE {Role.SWEEP}; "
            f"GRANT {', '.join(Role)} TO {found.login}; then run 'runstream migrate'."
        )
        return Finding(Mark.ADVICE, _PART, text)
    if found.open:
        text = f"A query that forgot its tenant would show all of {', '.join(found.open)}: run 'runstream migrate'."
        return Finding(Mark.PROBLEM, _PART, text)
    text = "A query that forgets its tenant is shown nothing"
    if found.passes:
        return Finding(Mark.OK, _PART, f"{text}, while it does not take on another role, as {found.login} can.")
    return Finding(Mark.OK, _PART, f"{text}, and {found.login} cannot take on a role that sees all.")


async def _sweep(settings: Settings) -> Sequence[Finding]:
    variable = "RUNSTREAM_SWEEP_DATABASE_URL" if settings.sweep_database_url else "RUNSTREAM_DATABASE_URL"
    try:
        async with opened(settings.sweep_login, settings.database_timeout) as engine:
            refused = (await condition(engine)).refused
    except RunstreamError as error:
        return [Finding(Mark.PROBLEM, _PART, f"The sweep cannot use {variable}: {error.message}")]
    if not refused:
        return []
    return [Finding(Mark.PROBLEM, _PART, f"The sweep may not write {', '.join(refused)}: grant {Role.SWEEP} to it.")]
