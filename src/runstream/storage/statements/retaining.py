"""Remove content that has been kept for as long as it is to be. The row stays, and says what was removed and when.

What each kind is stands in `_REMOVED`, table by table, and nowhere else.
"""

from collections.abc import Mapping

from sqlalchemy import ARRAY, Interval, String, TextClause, bindparam, text

from runstream.domain.retention import Content

_NO_MESSAGE = """error = error || '{"message": "It was removed."}'"""
_TOLD_NO_MESSAGE = (
    "data = CASE WHEN jsonb_typeof(data -> 'error') = 'object'"
    " THEN jsonb_set(data, '{error,message}', '\"It was removed.\"') ELSE data END"
)
_REMOVED: Mapping[Content, Mapping[str, str]] = {
    Content.INPUT: {
        "runs": "input = 'null', metadata = '{}', subject_type = NULL, subject_id = NULL, idempotency_key = NULL,"
        " idempotency_hash = NULL",
        "webhook_deliveries": """data = data || '{"metadata": {}, "subject_type": null, "subject_id": null}'""",
    },
    Content.OUTPUT: {
        "runs": "output = NULL, reasoning = NULL, tool_calls = NULL, findings = NULL, transcript = NULL,"
        f" transcript_removed_at = coalesce(transcript_removed_at, now()), {_NO_MESSAGE}",
        "attempts": _NO_MESSAGE,
        "webhook_deliveries": _TOLD_NO_MESSAGE,
        "feedback": "text = NULL, comment = NULL",
    },
    Content.TRANSCRIPT: {"runs": "transcript = NULL"},
}
_AFTER_MARK = "finished_at IS NOT NULL AND (finished_at, id) > (coalesce(mark.finished_at, '-infinity'), mark.run_id)"

TENANTS = text("SELECT id FROM tenants WHERE id > :beyond ORDER BY id LIMIT :most")
DUE = text(f"""
    SELECT wanted.tenant, wanted.kind
    FROM unnest(:tenants, :kinds, :ages) AS wanted (tenant, kind, age)
    LEFT JOIN retention_marks AS marked USING (tenant, kind)
    CROSS JOIN LATERAL (SELECT marked.finished_at, coalesce(marked.run_id, '') AS run_id) AS mark
    WHERE EXISTS (SELECT FROM runs WHERE tenant = wanted.tenant AND {_AFTER_MARK} AND finished_at < now() - wanted.age)
""").bindparams(  # noqa: S608 - the text is all ours
    bindparam("tenants", type_=ARRAY(String)),
    bindparam("kinds", type_=ARRAY(String)),
    bindparam("ages", type_=ARRAY(Interval)),
)
"""Whose content of which kind has been kept for longer than that: one look at the index for each."""
MARK = text("INSERT INTO retention_marks (tenant, kind) VALUES (:tenant, :kind) ON CONFLICT DO NOTHING")


def _remove(kind: Content) -> TextClause:
    changes = dict(_REMOVED[kind])
    of_runs = changes.pop("runs")
    others = "".join(
        f", of_{table} AS (UPDATE {table} SET {change} WHERE run_id = ANY(ARRAY(SELECT id FROM removed)))"  # noqa: S608
        for table, change in changes.items()
    )
    return text(f"""
        WITH mark AS (
            SELECT finished_at, run_id FROM retention_marks
            WHERE tenant = :tenant AND kind = '{kind}' FOR UPDATE SKIP LOCKED
        ), old AS (
            SELECT found.* FROM mark CROSS JOIN LATERAL (
                SELECT id, finished_at FROM runs
                WHERE tenant = :tenant AND {_AFTER_MARK} AND finished_at < now() - CAST(:age AS interval)
                ORDER BY finished_at, id LIMIT :most
            ) AS found
        ), removed AS (
            UPDATE runs SET {kind}_removed_at = coalesce({kind}_removed_at, now()), {of_runs}
            WHERE id = ANY(ARRAY(SELECT id FROM old)) AND finished_at < now() - CAST(:age AS interval)
            RETURNING id
        ){others}, last AS (
            SELECT finished_at, id FROM old ORDER BY finished_at DESC, id DESC LIMIT 1
        )
        UPDATE retention_marks SET finished_at = last.finished_at, run_id = last.id
        FROM last WHERE tenant = :tenant AND kind = '{kind}'
        RETURNING (SELECT count(*) FROM old) AS found
    """)  # noqa: S608 - the text is all ours


REMOVE = {kind: _remove(kind) for kind in Content}
"""From some of the tenant's runs, those that ended first first; nothing while somebody else is at it."""
