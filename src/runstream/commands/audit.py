"""What the audit command does, straight at the database: for those who run the service."""

import json
from datetime import UTC, datetime

from runstream.domain.audit import Action, Entry
from runstream.domain.durations import in_seconds
from runstream.settings import load
from runstream.storage.audit import AuditFilters, AuditStore
from runstream.storage.command import opened
from runstream.terminal import plain


async def listed(
    *,
    tenant: str | None,
    action: Action | None,
    target: str | None,
    principal: str | None,
    since: str | None,
    limit: int,
) -> list[str]:
    """A line for each entry, newest first. Raises InvalidField, Unavailable."""
    settings = load()
    async with opened(settings.sweep_login, settings.database_timeout) as engine:
        filters = AuditFilters(tenant, action, target, principal, None if since is None else _moment(since))
        return [_line(entry) for entry in await AuditStore(engine, engine).page(filters, before=None, limit=limit)]


def _moment(since: str) -> datetime:
    now = datetime.now(UTC)
    return datetime.fromtimestamp(max(0.0, now.timestamp() - in_seconds(since, param="since")), UTC)


def _line(entry: Entry) -> str:
    by = entry.by
    words = [
        f"{entry.at:%Y-%m-%d %H:%M:%S}",
        entry.tenant or "-",
        by.kind,
        by.id,
        *([f"for {by.user}"] if by.user else []),
        entry.action,
        entry.target or "-",
        by.address or "-",
        by.request_id,
        *([json.dumps(entry.details, ensure_ascii=False)] if entry.details else []),
    ]
    return plain("  ".join(words))
