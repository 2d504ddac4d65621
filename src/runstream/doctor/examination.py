"""Look at each part that Runstream needs; none costs a token, and nothing is changed."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence

from runstream.doctor.configuration import check_configuration
from runstream.doctor.database import check_database, check_migrations
from runstream.doctor.encryption import check_encryption
from runstream.doctor.finding import Finding, Mark
from runstream.doctor.issuers import check_issuer
from runstream.doctor.moderation import check_moderation
from runstream.doctor.providers import check_provider
from runstream.doctor.redis import check_redis
from runstream.doctor.tenants import check_tenants
from runstream.domain.errors import RunstreamError
from runstream.settings import Settings, survey

_DEADLINE = 30.0
"""Seconds for one check, which has shorter ones within."""

Check = Coroutine[None, None, Sequence[Finding]]


async def examine(say: Callable[[str], None] = print) -> int:
    """Say what was found, a line each, and return 1 where there is a problem. One failed check stops no other.

    A variable that cannot be read is told, and counts as not set for the rest.
    """
    settings, refused = survey()
    problems = 0
    async with asyncio.TaskGroup() as group:
        checks = [group.create_task(_bounded(part, check)) for part, check in _checks(settings, refused)]
        for task in checks:
            for finding in await task:
                say(str(finding))
                problems += finding.mark is Mark.PROBLEM
    say("All is well." if not problems else f"{problems} problem{'s' if problems > 1 else ''}.")
    return 1 if problems else 0


def _checks(settings: Settings, refused: Sequence[str]) -> Iterator[tuple[str, Check]]:
    yield "configuration", check_configuration(settings, refused)
    yield "database", check_database(settings)
    yield "migrations", check_migrations(settings)
    yield "tenants", check_tenants(settings)
    yield "encryption", check_encryption(settings)
    yield "redis", check_redis(settings)
    for name in settings.providers:
        yield "provider", check_provider(settings, name)
    for given in settings.jwt:
        yield "issuer", check_issuer(given)
    if settings.moderation is not None:
        yield "moderation", check_moderation(settings.moderation)


async def _bounded(part: str, check: Check) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(_DEADLINE):
            return await check
    except RunstreamError as error:
        text = error.message
    except TimeoutError:
        text = f"It took longer than {_DEADLINE:g} s."
    except Exception as error:
        text = f"It could not be checked: {type(error).__name__}."  # its message may hold anything
    return [Finding(Mark.PROBLEM, part, text)]
