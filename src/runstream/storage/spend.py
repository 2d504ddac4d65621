"""What was spent: the ledger, added up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import Any, Final

from sqlalchemy import ColumnElement, Date, cast, func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.principal import Owner
from runstream.storage.database import ask
from runstream.storage.tables import ledger
from runstream.storage.tenancy import bound
from runstream.storage.turns import Turns


class Dimension(StrEnum):
    """What spend can be told apart by; a day is one of UTC."""

    TENANT = "tenant"
    USER = "user"
    FEATURE = "feature"
    MODEL = "model"
    PROVIDER = "provider"
    PROVIDER_MODEL = "provider_model"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Spend:
    """Calls and their tokens; the `refused` bought nothing.

    `cost` is in US dollars, of all but the `unpriced` ones: their price is not known.
    Those that are `cached` were not made, and would have cost what is `saved`, as far as that is known.
    """

    group: Mapping[Dimension, str]
    calls: int
    refused: int
    estimated: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: Decimal
    cached: int
    saved: Decimal


_COLUMNS: Final[Mapping[Dimension, ColumnElement[Any]]] = {
    Dimension.TENANT: ledger.c.tenant,
    Dimension.USER: ledger.c.user_id,
    Dimension.FEATURE: ledger.c.feature,
    Dimension.MODEL: ledger.c.model,
    Dimension.PROVIDER: ledger.c.provider,
    Dimension.PROVIDER_MODEL: ledger.c.provider_model,
    Dimension.DAY: cast(func.timezone("UTC", ledger.c.made_at), Date),
}
_MADE_A_COST = or_(ledger.c.input_tokens > 0, ledger.c.output_tokens > 0)
_SUMS = (
    func.count(),
    func.count().filter(~_MADE_A_COST, ~ledger.c.cached),
    func.count().filter(ledger.c.estimated),
    func.count().filter(ledger.c.cost.is_(None), _MADE_A_COST),
    *(func.coalesce(func.sum(ledger.c[name]), 0) for name in ("input_tokens", "output_tokens", "cached_tokens")),
    func.coalesce(func.sum(ledger.c.cost), Decimal(0)),
    func.count().filter(ledger.c.cached),
    func.coalesce(func.sum(ledger.c.saved_cost), Decimal(0)),
)


class SpendStore:
    def __init__(self, engine: AsyncEngine) -> None:
        self._ask = partial(ask, engine)
        self._turns = Turns()

    async def spend(
        self, owner: Owner, by: Sequence[Dimension], *, since: datetime, until: datetime, limit: int
    ) -> list[Spend]:
        """What the owner's runs took from `since` on and before `until`, by the groups asked for and in their order.

        Raises Unavailable.
        """
        groups = [_COLUMNS[dimension] for dimension in by]
        query = bound(
            select(*groups, *_SUMS)
            .where(ledger.c.tenant == owner.tenant, ledger.c.made_at >= since, ledger.c.made_at < until)
            .group_by(*groups)
            .order_by(*groups)
            .limit(limit)
        )
        if owner.user is not None:
            query = query.where(ledger.c.user_id == owner.user)
        async with self._turns.of(owner.tenant):
            return [_spend(by, row) for row in await self._ask(query, whose=[owner.tenant])]


def _spend(by: Sequence[Dimension], row: Sequence[Any]) -> Spend:
    group = {dimension: str(value) for dimension, value in zip(by, row, strict=False)}
    calls, refused, estimated, unpriced, *tokens, cost, cached, saved = row[len(by) :]
    read, written, reread = map(int, tokens)
    return Spend(
        group, calls, refused, estimated, unpriced, read, written, reread, Decimal(cost), cached, Decimal(saved)
    )
