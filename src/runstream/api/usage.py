"""What was spent, and on what."""

import csv
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from runstream.api.asking import Spending
from runstream.api.documents import EVERYWHERE, refusals
from runstream.api.schemas.fields import Absent, Moment
from runstream.api.schemas.usage import UsagePage, UsageSum
from runstream.api.services import Given
from runstream.domain.errors import InvalidField
from runstream.storage.spend import Dimension

router = APIRouter(prefix="/v1/usage", tags=["usage"], responses=refusals(*EVERYWHERE))

_CSV = "text/csv"
_MOST = 10_000
_DEFAULT = timedelta(days=30)
_DIMENSIONS = ", ".join(Dimension)


@router.get(
    "",
    response_model=UsagePage,
    responses={200: {"content": {_CSV: {"schema": {"type": "string"}}}}},
)
async def get_usage(
    asking: Spending,
    services: Given,
    group_by: Annotated[str, Query(description=f"Any of {_DIMENSIONS}, with commas between.")] = "",
    from_: Annotated[
        Moment | None, Query(alias="from", description="30 days before `to` where it is left out.")
    ] = None,
    to: Annotated[Moment | None, Query(description="Now, where it is left out.")] = None,
    accept: Annotated[str | Absent, Header(include_in_schema=False)] = None,
) -> Response:
    """What was spent from `from` on and before `to`, as the ledger of calls to providers has it.

    It is a user's own, or all of a tenant's. CSV where the request accepts `text/csv`.
    """
    by = _dimensions(group_by)
    until = to or datetime.now(UTC)
    since = from_ or _before(until)
    if since > until:
        raise InvalidField("This time begins after its end: give a 'from' before 'to'.", param="from")
    spent = await services.spend.spend(asking.owner, by, since=since, until=until, limit=_MOST + 1)
    if len(spent) > _MOST:
        raise InvalidField(f"These are more than {_MOST} groups: ask for a shorter time.", param="group_by")
    groups = [UsageSum.of(each) for each in spent]
    if _CSV in (accept or ""):
        return Response(_as_csv(by, groups), media_type=_CSV, headers={"Cache-Control": "no-store"})
    page = UsagePage(since=since, until=until, data=groups)
    return Response(page.model_dump_json(by_alias=True, exclude_none=True), media_type="application/json")


def _dimensions(group_by: str) -> Sequence[Dimension]:
    """In the order in which they were named, each once."""
    names = [name.strip() for name in group_by.split(",") if name.strip()]
    try:
        return [Dimension(name) for name in dict.fromkeys(names)]
    except ValueError:
        raise InvalidField(f"group_by takes any of {_DIMENSIONS}.", param="group_by") from None


def _before(until: datetime) -> datetime:
    try:
        return until - _DEFAULT
    except OverflowError:
        return until


def _as_csv(by: Sequence[Dimension], groups: Sequence[UsageSum]) -> str:
    written = StringIO()
    columns = [*by, *(name for name in UsageSum.model_fields if name not in set(Dimension))]
    table = csv.DictWriter(written, columns, extrasaction="ignore", lineterminator="\r\n")
    table.writeheader()
    for group in groups:
        table.writerow({name: _as_text(value) for name, value in group.model_dump().items()})
    return written.getvalue()


def _as_text(value: object) -> object:
    """A name that a spreadsheet would take for a formula is given as the text that it is."""
    return f"'{value}" if isinstance(value, str) and value[:1] in set("=+-@\t\r") else value
