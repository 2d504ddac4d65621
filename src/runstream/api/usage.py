"""What was spent, and on what."""

import csv
from collections.abc import Sequence
from io import StringIO
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from runstream.api.asking import Spending
from runstream.api.documents import EVERYWHERE, refusals
from runstream.api.grouping import MOST, check_few, dimensions, period
from runstream.api.schemas.fields import Absent, Moment
from runstream.api.schemas.usage import UsagePage, UsageSum
from runstream.api.services import Given
from runstream.storage.spend import Dimension

router = APIRouter(prefix="/v1/usage", tags=["usage"], responses=refusals(*EVERYWHERE))

_CSV = "text/csv"


@router.get(
    "",
    response_model=UsagePage,
    responses={200: {"content": {_CSV: {"schema": {"type": "string"}}}}},
)
async def get_usage(
    asking: Spending,
    services: Given,
    group_by: Annotated[str, Query(description=f"Any of {', '.join(Dimension)}, with commas between.")] = "",
    from_: Annotated[
        Moment | None, Query(alias="from", description="30 days before `to` where it is left out.")
    ] = None,
    to: Annotated[Moment | None, Query(description="Now, where it is left out.")] = None,
    accept: Annotated[str | Absent, Header(include_in_schema=False)] = None,
) -> Response:
    """What was spent from `from` on and before `to`, as the ledger of calls to providers has it.

    It is a user's own, or all of a tenant's. CSV where the request accepts `text/csv`.
    """
    by = dimensions(Dimension, group_by)
    since, until = period(from_, to)
    spent = await services.spend.spend(asking.owner, by, since=since, until=until, limit=MOST + 1)
    check_few(spent)
    groups = [UsageSum.of(each) for each in spent]
    if _CSV in (accept or ""):
        return Response(_as_csv(by, groups), media_type=_CSV, headers={"Cache-Control": "no-store"})
    page = UsagePage(since=since, until=until, data=groups)
    return Response(page.model_dump_json(by_alias=True, exclude_none=True), media_type="application/json")


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
