"""Rows of runs and attempts, sealed where they are written and opened where they are read."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Row

from runstream.domain.errors import ContentUnreadable
from runstream.domain.run import AttemptRecord, Claim, Ending, Run
from runstream.storage.content import ATTEMPTS, RUNS, Content, attempt_row
from runstream.storage.rows import attempt_of, claim_of, run_of

_ENDING = ("transcript", "output", "reasoning", "tool_calls", "error")


class Unread(NamedTuple):
    """A claimed run whose input cannot be opened."""

    tenant: str
    run_id: str
    attempt: int


class RunContent:
    """All raise Unavailable, and ContentUnreadable but where it says otherwise."""

    def __init__(self, content: Content) -> None:
        self._content = content

    async def new(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A new run's row, as the statements take it."""
        row = await self._content.sealed(RUNS, given["tenant"], given["id"], given)
        hashed = row["idempotency_hash"]
        return {**row, "idempotency_hash": None if hashed is None else f"\\x{hashed.hex()}"}

    async def ending(self, tenant: str, run_id: str, ending: Ending) -> dict[str, Any]:
        """A run's end, as the statement takes it."""
        sealed = await self._content.sealed(RUNS, tenant, run_id, {name: getattr(ending, name) for name in _ENDING})
        return {"run_error": sealed.pop("error"), **{f"whole_{name}": value for name, value in sealed.items()}}

    async def attempt_error(self, tenant: str, run_id: str, attempt: int, error: Mapping[str, Any] | None) -> Any:
        """As the statements take it that end an attempt."""
        sealed = await self._content.sealed(ATTEMPTS, tenant, attempt_row(run_id, attempt), {"error": error})
        return sealed["error"]

    async def opened(self, row: Row[Any], *, strict: bool = True) -> Mapping[Any, Any]:
        """See Content.opened."""
        return await self._content.opened(RUNS, row.tenant, row.id, row._mapping, strict=strict)

    async def run(self, rows: Sequence[Row[Any]], *, strict: bool = True) -> Run | None:
        """The first one. Where it is not `strict`, without what of its content cannot be opened."""
        return run_of(await self.opened(rows[0], strict=strict)) if rows else None

    async def runs(self, rows: Sequence[Row[Any]], *, strict: bool = True) -> list[Run]:
        return [run_of(await self.opened(row, strict=strict)) for row in rows]

    async def claim(self, row: Row[Any]) -> Claim | Unread:
        """Never raises ContentUnreadable."""
        try:
            return claim_of(row, (await self.opened(row))["input"])
        except ContentUnreadable:
            return Unread(row.tenant, row.id, row.attempt)

    async def attempt(self, row: Row[Any]) -> AttemptRecord:
        """Never raises ContentUnreadable."""
        name = attempt_row(row.run_id, row.attempt)
        opened = await self._content.opened(ATTEMPTS, row.tenant, name, row._mapping, strict=False)
        return attempt_of(row, opened["error"])

    async def transcript(self, tenant: str, run_id: str, events: Any) -> list[list[Any]] | None:
        opened = await self._content.opened(RUNS, tenant, run_id, {"transcript": events})
        transcript: list[list[Any]] | None = opened["transcript"]
        return transcript
