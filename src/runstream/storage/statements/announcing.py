"""Have a tenant's webhooks told of a run, in the statement that changes it: there is no end that nobody is told of."""

from typing import Any

from sqlalchemy import CTE, BindParameter, Text, any_, bindparam, cast, func, insert, literal, select

from runstream.storage.tables import webhook_deliveries, webhooks

_EVENT: BindParameter[str] = bindparam("event_type", type_=webhook_deliveries.c.event.type)
FACTS = (
    "id",
    "status",
    "user_id",
    "feature",
    "prompt_version",
    "model",
    "provider",
    "provider_model",
    "subject_type",
    "subject_id",
    "metadata",
    "attempt",
    "finish_reason",
    "error",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "usage_estimated",
    "cost",
    "cached",
    "flagged",
    "created_at",
    "started_at",
    "finished_at",
)
"""What a webhook tells of a run: neither what was asked nor what was answered."""


def announcing(changed: CTE) -> CTE:
    """A delivery for each webhook of the tenant that is to be told.

    `changed` answers the run's tenant and FACTS. A webhook that is being removed at this moment is told nothing: the
    row of another is held until its delivery is there.
    """
    facts = func.jsonb_build_object(*(part for name in FACTS for part in (literal(name), _told(changed, name))))
    row = {
        "webhook_id": webhooks.c.id,
        "id": bindparam("event_id", type_=webhook_deliveries.c.id.type),
        "tenant": changed.c.tenant,
        "event": _EVENT,
        "run_id": changed.c.id,
        "data": facts,
    }
    asked = (
        select(*row.values())
        .join_from(changed, webhooks, webhooks.c.tenant == changed.c.tenant)
        .where(webhooks.c.disabled_at.is_(None), any_(webhooks.c.events) == _EVENT)
        .with_for_update(read=True, key_share=True, of=webhooks)
    )
    return insert(webhook_deliveries).from_select([*row], asked).cte("announced")


def _told(changed: CTE, name: str) -> Any:
    return cast(changed.c[name], Text) if name == "cost" else changed.c[name]  # as text it loses no digit
