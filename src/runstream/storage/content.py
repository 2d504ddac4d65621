"""What rows hold of content: sealed where it is written, opened where it is read, and as it is where nothing is sealed.

A value opens in the row and column that it was sealed for. Sealed values are told from plain ones by themselves: in
columns of JSON, whose plain values are objects and lists, a sealed one is a string; a sealed text, such as an
error's message, begins with a mark, and a plain one that begins so is marked as plain; sealed bytes are longer than a
hash. So rows of before and of after stand side by side.

A table that is to hold content needs a Part, its statements to be given what `sealed` answers, what reads it to go
through `opened`, and a line in `statements.sealing.SEALED`, for rotations to find it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import LargeBinary, Table
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.errors import ContentUnreadable
from runstream.sealing.data_key import MARK, DataKey, key_of
from runstream.sealing.master_keys import MasterKeys
from runstream.storage.data_keys import DataKeys
from runstream.storage.tables import attempts, feedback, runs, webhooks

_PLAIN = f"{MARK}plain:"
"""Before a plain text that begins as sealed ones do."""
_HASH_LENGTH = 32
"""Bytes of a plain hash; a sealed one is longer."""


@dataclass(frozen=True, slots=True)
class Part:
    """Columns of a table that hold content."""

    table: Table
    columns: tuple[str, ...]

    def place(self, tenant: str, row: str, column: str) -> str:
        return f"{tenant}/{self.table.name}.{column}/{row}"

    def is_error(self, column: str) -> bool:
        """Of which the message alone is content: its code is looked for, and stays when the message is removed."""
        return column == "error"

    def is_json(self, column: str) -> bool:
        return isinstance(self.table.c[column].type, JSONB)

    def is_bytes(self, column: str) -> bool:
        return isinstance(self.table.c[column].type, LargeBinary)

    def types(self) -> dict[str, Any]:
        return {column: self.table.c[column].type for column in self.columns}


RUNS: Final = Part(
    runs, ("input", "metadata", "idempotency_hash", "transcript", "output", "reasoning", "tool_calls", "error")
)
ATTEMPTS: Final = Part(attempts, ("error",))
WEBHOOKS: Final = Part(webhooks, ("secrets",))
FEEDBACK: Final = Part(feedback, ("text", "comment"))


class Content:
    """Rows are named by their ids, feedback by its run's, an attempt by its run's and its number."""

    def __init__(self, keys: DataKeys | None = None) -> None:
        """Without keys all is written plain, and what is sealed cannot be opened."""
        self._keys = keys

    async def sealed(self, part: Part, tenant: str, row: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values by column, with what is content among them sealed. Raises ContentUnreadable, Unavailable."""
        content = {name: value for name in part.columns if (value := values.get(name))}
        if self._keys is None or not content:
            return {**values, **{name: _plain(part, name, value) for name, value in content.items()}}
        key = await self._keys.newest(tenant)
        return {**values, **{name: seal(key, part, tenant, row, name, value) for name, value in content.items()}}

    async def opened(
        self, part: Part, tenant: str, row: str, values: Mapping[Any, Any], *, strict: bool = True
    ) -> Mapping[Any, Any]:
        """The values by column, with what is sealed among them opened. Raises ContentUnreadable, Unavailable.

        Where it is not `strict`, what cannot be opened is left out, and an error in its place says so.
        """
        found = {
            name: text
            for name in part.columns
            if (value := values.get(name)) is not None and (text := _marked(part, name, value)) is not None
        }
        if not found:
            return values
        try:
            opened = {name: await self._open(part, tenant, row, name, text) for name, text in found.items()}
            if "error" in opened:
                opened["error"] = {**values["error"], "message": opened["error"]}
        except ContentUnreadable as error:
            if strict:
                raise
            unread = {"error": {"code": error.code, "message": error.message}}
            opened = {**dict.fromkeys(found), **({"metadata": {}} if "metadata" in found else {}), **unread}
        return {**values, **opened}

    async def _open(self, part: Part, tenant: str, row: str, column: str, text: str) -> Any:
        if text.startswith(_PLAIN):
            return text.removeprefix(_PLAIN)
        if self._keys is None:
            raise ContentUnreadable
        key = await self._keys.named(tenant, key_of(text))
        value = key.open(text, part.place(tenant, row, column))
        if part.is_bytes(column):
            return value
        return orjson.loads(value) if part.is_json(column) and not part.is_error(column) else value.decode()


PLAIN: Final = Content()
"""Nothing is sealed."""


def attempt_row(run_id: str, attempt: int) -> str:
    return f"{run_id}/{attempt}"


def content_with(engine: AsyncEngine, masters: MasterKeys | None) -> Content:
    """Plain where there are no master keys."""
    return PLAIN if masters is None else Content(DataKeys(engine, masters))


def seal(key: DataKey, part: Part, tenant: str, row: str, column: str, value: Any) -> Any:
    """As the column is to hold it."""
    if part.is_error(column):
        if "message" not in value:
            return value
        return {**value, "message": key.seal(value["message"].encode(), part.place(tenant, row, column))}
    if part.is_bytes(column):
        return key.seal(value, part.place(tenant, row, column)).encode()
    plain = orjson.dumps(value) if part.is_json(column) else value.encode()
    return key.seal(plain, part.place(tenant, row, column))


def _plain(part: Part, column: str, value: Any) -> Any:
    if part.is_error(column):
        return {**value, "message": _unmarked(value["message"])} if "message" in value else value
    return _unmarked(value) if isinstance(value, str) else value


def _unmarked(text: str) -> str:
    return _PLAIN + text if text.startswith(MARK) else text


def _marked(part: Part, column: str, value: Any) -> str | None:
    """What of the value is not plain."""
    if part.is_error(column):
        value = value.get("message", "")
        return value if value.startswith(MARK) else None
    if isinstance(value, str):
        return value if part.is_json(column) or value.startswith(MARK) else None
    return value.decode("latin-1") if part.is_bytes(column) and len(value) > _HASH_LENGTH else None
