"""An export, line by line: what a tenant has, or one of its users, as the API shows it."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from functools import partial

from pydantic import BaseModel

from runstream.api.schemas.audit import EntryObject
from runstream.api.schemas.export import ExportBegin, ExportEnd, LedgerLine, RunLine
from runstream.api.schemas.feedback import FeedbackObject
from runstream.api.schemas.keys import KeyObject
from runstream.api.schemas.webhooks import WebhookObject
from runstream.storage.audit import AuditFilters, AuditStore
from runstream.storage.exporting import ExportStore
from runstream.storage.feedback import FeedbackStore
from runstream.storage.keys import KeyStore
from runstream.storage.webhooks import WebhookStore

_ENTRIES = 100
"""Of the audit log, that are read at a time."""

Section = Callable[[str, str | None, datetime], AsyncIterator[BaseModel]]
"""Yields the lines of one kind, of a tenant, or of the user named, that were there at that time."""


class Export:
    """What else a tenant has is one more section."""

    def __init__(self, store: ExportStore, sections: Sequence[Section]) -> None:
        self._store = store
        self._sections = sections

    async def begin(self, tenant: str, user: str | None) -> AsyncIterator[bytes]:
        """The export's lines, of which no more than a page is held at a time. Raises Unavailable, before and within."""
        at = await self._store.now()
        return self._lines(tenant, user, at)

    async def _lines(self, tenant: str, user: str | None, at: datetime) -> AsyncIterator[bytes]:
        yield _line(ExportBegin(tenant=tenant, user=user, at=at))
        lines: Counter[str] = Counter()
        for section in self._sections:
            async for each in section(tenant, user, at):
                lines[_kind(each)] += 1
                yield _line(each)
        yield _line(ExportEnd(lines=dict(lines)))


def sections(
    store: ExportStore, feedback: FeedbackStore, webhooks: WebhookStore, keys: KeyStore, audit: AuditStore
) -> Sequence[Section]:
    """Each kind of lines, in the order in which they come."""
    return (
        partial(_runs, store),
        partial(_feedback, feedback),
        partial(_ledger, store),
        partial(_webhooks, webhooks),
        partial(_keys, keys),
        partial(_audit, audit),
    )


async def _runs(store: ExportStore, tenant: str, user: str | None, at: datetime) -> AsyncIterator[BaseModel]:
    async for whole in store.runs(tenant, user, at):
        yield RunLine.whole(whole)


async def _feedback(store: FeedbackStore, tenant: str, user: str | None, at: datetime) -> AsyncIterator[BaseModel]:
    async for feedback in store.all(tenant, user, at):
        yield FeedbackObject.of(feedback)


async def _ledger(store: ExportStore, tenant: str, user: str | None, at: datetime) -> AsyncIterator[BaseModel]:
    async for entry in store.ledger(tenant, user, at):
        yield LedgerLine.of(entry)


async def _webhooks(store: WebhookStore, tenant: str, user: str | None, _: datetime) -> AsyncIterator[BaseModel]:
    if user is None:
        for webhook in await store.list(tenant):
            yield WebhookObject.of(webhook)


async def _keys(store: KeyStore, tenant: str, user: str | None, _: datetime) -> AsyncIterator[BaseModel]:
    for record in await store.all(tenant):
        if user in (None, record.user):
            yield KeyObject.of(record)


async def _audit(store: AuditStore, tenant: str, user: str | None, at: datetime) -> AsyncIterator[BaseModel]:
    """The newest first, as the tenant sees it."""
    if user is not None:
        return
    before, filters = None, AuditFilters(tenant, until=at)
    while entries := await store.page(filters, before=before, limit=_ENTRIES):
        for entry in entries:
            yield EntryObject.of(entry, to_tenant=True)
        before = entries[-1].id


def _kind(line: BaseModel) -> str:
    """What every line says of itself in its `object`."""
    kind: str = vars(line)["object"]
    return kind


def _line(each: BaseModel) -> bytes:
    return each.model_dump_json().encode() + b"\n"
