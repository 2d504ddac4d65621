"""Deliver webhooks: find what is due, take it, and write down what came of it. Postgres' clock says what is due.

To find it and to forget it takes the sweep's rights; the others are bound, and none but them reads secrets or data.
"""

from sqlalchemy import String, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from runstream.storage.tenancy import WHOSE

_FREE = "disabled_at IS NULL AND (resting_until IS NULL OR resting_until <= now())"

WAITING = text(f"""
    WITH RECURSIVE waiting AS (
        SELECT min(webhook_id) AS id, 1 AS nth FROM webhook_deliveries WHERE status = 'pending' AND webhook_id > :beyond
        UNION ALL
        SELECT (SELECT min(webhook_id) FROM webhook_deliveries WHERE status = 'pending' AND webhook_id > waiting.id),
            nth + 1
        FROM waiting WHERE id IS NOT NULL AND nth < :most
    )
    SELECT webhooks.id, tenant, {_FREE} AND now() >= (
        SELECT min(due_at) FROM webhook_deliveries WHERE webhook_id = webhooks.id AND status = 'pending'
    ) AS due
    FROM waiting CROSS JOIN LATERAL (SELECT * FROM webhooks WHERE webhooks.id = waiting.id LIMIT 1) AS webhooks
    ORDER BY webhooks.id
""")  # noqa: S608 - the text is all ours
"""Webhooks that something is pending for, in order, and whether it may be attempted now: two looks at the index for
each, however much that is, and one at the webhook. The limit keeps Postgres from reading them all instead."""

AT_ONCE = 5
"""Deliveries to one webhook that are taken together. It stands in the statement: a plan for any number of them would
read all that there are."""
TAKE = (
    text(f"""
    WITH whose AS (SELECT :whose), found AS (
        SELECT webhooks.*, due.id AS delivery, due.due_at
        FROM webhooks CROSS JOIN LATERAL (
            SELECT id, due_at FROM webhook_deliveries
            WHERE webhook_id = webhooks.id AND status = 'pending' AND due_at <= now()
            ORDER BY due_at LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED
        ) AS due
        WHERE webhooks.id = ANY(:webhooks) AND {_FREE}
    ), taken AS (
        SELECT *, row_number() OVER (PARTITION BY id ORDER BY due_at) AS nth FROM found
    )
    UPDATE webhook_deliveries AS one SET due_at = now() + CAST(:lease AS interval), tries = tries + 1
    FROM taken WHERE one.webhook_id = taken.id AND one.id = taken.delivery AND (nth = 1 OR failing_since IS NULL)
    RETURNING taken.*, one.event, one.run_id, one.data, one.created_at AS happened_at, one.tries
""")  # noqa: S608 - the text is all ours
    .bindparams(WHOSE, bindparam("webhooks", type_=ARRAY(String)))
    .columns(secrets=JSONB, data=JSONB)
)
"""What has been due for longest, of each webhook as much as may be, and one where attempts have been failing. It is
nobody else's for the length of the lease."""

_ONE = "tenant = :tenant AND webhook_id = :webhook AND id = :delivery"
_ATTEMPTS = """
    CASE WHEN jsonb_array_length(attempts) < 20 THEN attempts ELSE attempts - 0 END || CAST(:attempt AS jsonb)
"""
"""Another at the end; where there are many, without the first."""

PUT_BACK = text(f"""
    WITH whose AS (SELECT :whose)
    UPDATE webhook_deliveries SET tries = tries - 1, due_at = now() + interval '1 minute'
    WHERE {_ONE} AND status = 'pending' AND tries = :number
""").bindparams(WHOSE)  # noqa: S608 - the text is all ours
"""As if it had not been taken, but later."""
DELIVERED = text(f"""
    WITH whose AS (SELECT :whose)
    UPDATE webhook_deliveries SET status = 'delivered', ended_at = now(), attempts = {_ATTEMPTS}
    WHERE {_ONE} AND status <> 'delivered'
""").bindparams(WHOSE, bindparam("attempt", type_=JSONB))  # noqa: S608 - the text is all ours
"""What was delivered is, though it was given up, or taken by somebody else, in the meantime."""
HEALTHY = text("""
    WITH whose AS (SELECT :whose)
    UPDATE webhooks SET failing_since = NULL, resting_until = NULL
    WHERE tenant = :tenant AND id = :webhook AND failing_since IS NOT NULL
""").bindparams(WHOSE)
"""A statement of its own: it would lock a webhook after one of its deliveries, and all others do the opposite."""

_SLOW = """
    CASE WHEN :slow THEN least(greatest(now() - coalesce(failing_since, now()), interval '5 s'), interval '5 min') END
"""
_OFF = """
    CASE WHEN :gone THEN 'gone'
        WHEN tried.status = 'failed' AND failing_since <= now() - CAST(:patience AS interval) THEN 'failing' END
"""
FAILED = text(f"""
    WITH whose AS (SELECT :whose), held AS (
        SELECT id AS of FROM webhooks WHERE tenant = :tenant AND id = :webhook FOR NO KEY UPDATE
    ), tried AS (
        UPDATE webhook_deliveries SET attempts = {_ATTEMPTS},
            status = CASE WHEN CAST(:wait AS interval) IS NULL THEN 'failed' ELSE 'pending' END,
            ended_at = CASE WHEN CAST(:wait AS interval) IS NULL THEN now() END,
            due_at = coalesce(now() + CAST(:wait AS interval), due_at)
        FROM held WHERE webhook_id = held.of AND {_ONE} AND status = 'pending' AND tries = :number
        RETURNING status
    ), noted AS (
        UPDATE webhooks SET failing_since = coalesce(failing_since, now()),
            resting_until = coalesce(now() + greatest(CAST(:rest AS interval), {_SLOW}), resting_until),
            disabled_at = CASE WHEN {_OFF} IS NOT NULL THEN now() END,
            disabled_reason = {_OFF}
        FROM tried WHERE tenant = :tenant AND id = :webhook AND disabled_at IS NULL
        RETURNING disabled_reason
    ), dropped AS (
        UPDATE webhook_deliveries SET status = 'failed', ended_at = now()
        WHERE webhook_id = :webhook AND tenant = :tenant AND status = 'pending' AND id <> :delivery
            AND EXISTS (SELECT FROM noted WHERE disabled_reason IS NOT NULL)
    )
    SELECT disabled_reason FROM noted WHERE disabled_reason IS NOT NULL
""").bindparams(WHOSE, bindparam("attempt", type_=JSONB))  # noqa: S608 - the text is all ours
"""The attempt that failed, if it is still the last one: with it ends the delivery where there is no more `wait`. The
receiver is left alone for the `rest` that it asked for, and where it is `slow` for as long as it has been failing, up
to five minutes. Answers why the webhook was switched off by this, if it was: then all that was pending for it ends."""

FORGET = text("""
    DELETE FROM webhook_deliveries WHERE status <> 'pending' AND ctid = ANY(ARRAY(
        SELECT old.place FROM webhooks CROSS JOIN LATERAL (
            SELECT ctid AS place FROM webhook_deliveries
            WHERE webhook_id = webhooks.id AND id < :first AND status <> 'pending'
            ORDER BY id LIMIT 1000
        ) AS old
    ))
""")
"""Some of what ended long ago, of each webhook."""
