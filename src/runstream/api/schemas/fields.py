"""Fields that several bodies and parameters share."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

_DATE = re.compile(r"[0-9]{4}-")


def _keepable(text: str) -> str:
    if "\0" in text:
        raise ValueError("Text must not contain NUL characters")
    return text


def _written_out(text: object) -> object:
    if not isinstance(text, str) or not _DATE.match(text):
        raise ValueError("Write a time such as 2026-01-31T12:00:00Z")
    return text


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("This time is out of range") from None


Absent = SkipJsonSchema[None]
"""What can be left out, and is never null where it is given."""
Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_keepable)]
Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]
EventId = Annotated[str, Field(json_schema_extra={"pattern": "^([0-9]{1,9}-[0-9]{1,15})?$"})]
IdempotencyKey = Annotated[str, Field(json_schema_extra={"pattern": "^[!-~]{1,255}$"})]
DeliveryCursor = Annotated[str, Field(pattern="^evt_[0-9a-hjkmnp-tv-z]{26}$")]
PageCursor = Annotated[str, Field(json_schema_extra={"pattern": "^run_[0-9a-hjkmnp-tv-z]{26}$"})]
AuditCursor = Annotated[str, Field(json_schema_extra={"pattern": "^aud_[0-9a-hjkmnp-tv-z]{26}$"})]
KeyCursor = Annotated[str, Field(json_schema_extra={"pattern": "^key_[0-9a-hjkmnp-tv-z]{26}$"})]


def _absent(value: object) -> bool:
    return value is None


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


WhereThereIsSome = Field(exclude_if=_absent, json_schema_extra=_without_default)
