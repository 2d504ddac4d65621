"""Which master keys are needed for what is encrypted, whatever a process was given."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.errors import ConfigurationError
from runstream.sealing.master_keys import MasterKeys
from runstream.storage.database import ask
from runstream.storage.statements.sealing import USES


class Use(NamedTuple):
    """How many data keys a master key wraps."""

    master: str
    data_keys: int


async def uses(engine: AsyncEngine) -> Sequence[Use]:
    """Of each master key that is needed, over all tenants. Raises Unavailable."""
    return [Use(*row) for row in await ask(engine, USES)]


def missing(used: Sequence[Use], masters: MasterKeys | None) -> str | None:
    """A sentence that names what is needed and not given; None where that is nothing."""
    given = masters.ids if masters else ()
    lacking = [use for use in used if use.master not in given]
    if not lacking:
        return None
    keys = sum(use.data_keys for use in lacking)
    return (
        f"RUNSTREAM_ENCRYPTION_KEYS lacks {', '.join(use.master for use in lacking)}, by which {keys} data keys are "
        "wrapped: without it their content cannot be read. Give it after the one that is to be used."
    )


async def require(engine: AsyncEngine, masters: MasterKeys | None) -> None:
    """Raises ConfigurationError where a key is missing, and Unavailable."""
    if sentence := missing(await uses(engine), masters):
        raise ConfigurationError(sentence)
