"""What run tokens are signed with. It is in Postgres alone, the same for all API processes."""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial

from sqlalchemy import Interval, LargeBinary, String, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.audit import Entry
from runstream.storage.audit import ask_noting
from runstream.storage.database import ask
from runstream.storage.tables import token_secrets

_NEW = select(bindparam("new_id", type_=String), bindparam("new_secret", type_=LargeBinary))
_SIGNING = token_secrets.c.until.is_(None)
_GOOD = (
    select(token_secrets.c.id, token_secrets.c.secret)
    .where(or_(_SIGNING, token_secrets.c.until > func.now()))
    .order_by(_SIGNING, token_secrets.c.id)
)
_FIRST = (
    insert(token_secrets)
    .from_select(["id", "secret"], _NEW.where(~select(token_secrets.c.id).where(_SIGNING).exists()))
    .returning(token_secrets.c.id)
)
_ENDED = delete(token_secrets).where(token_secrets.c.until <= func.now()).cte("ended")
_REPLACED = (
    update(token_secrets)
    .where(_SIGNING)
    .values(until=func.now() + bindparam("overlap", type_=Interval))
    .cte("replaced")
)
_ROTATE = (
    insert(token_secrets)
    .from_select(["id", "secret"], _NEW)
    .add_cte(_ENDED)
    .add_cte(_REPLACED)
    .returning(token_secrets.c.id)
)


class TokenSecretStore:
    """Every method raises Unavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._ask = partial(ask, engine)
        self._change = partial(ask_noting, engine)

    async def good(self) -> Mapping[str, bytes]:
        """By their ids those that a token may be signed with; the last one is what new ones are signed with."""
        return {row.id: row.secret for row in await self._ask(_GOOD)}

    async def add_first(self, new_id: str, secret: bytes) -> None:
        """Unless there is one. Of two that are added at the same time both are good."""
        await self._ask(_FIRST, new_id=new_id, new_secret=secret)

    async def rotate(self, new_id: str, secret: bytes, overlap: timedelta, *, entry: Entry | None = None) -> None:
        """Sign with this one from now on; what was signed before is good for the length of `overlap`, and no more.

        That is done together with its `entry` in the audit log.
        """
        await self._change(_ROTATE, entry, new_id=new_id, new_secret=secret, overlap=overlap)
