"""Erase a user: all that is theirs goes with their runs, and where a user is named beside them, a pseudonym is."""

from sqlalchemy import text

from runstream.storage.tenancy import WHOSE

ASK = text("""
    WITH whose AS (SELECT :whose), revoked AS (
        UPDATE api_keys SET revoked_at = now(), changed_at = now()
        WHERE tenant = :tenant AND user_id = :user AND kind = 'user' AND revoked_at IS NULL
    )
    INSERT INTO erasures (id, tenant, user_id) VALUES (:id, :tenant, :user)
    ON CONFLICT (tenant, user_id) WHERE done_at IS NULL DO UPDATE SET asked_at = now()
    RETURNING id, tenant, user_id, runs, asked_at, done_at
""").bindparams(WHOSE)
GET = text("""
    WITH whose AS (SELECT :whose)
    SELECT id, tenant, user_id, runs, asked_at, done_at FROM erasures WHERE tenant = :tenant AND id = :id
""").bindparams(WHOSE)
OPEN = text("""
    SELECT id, tenant, user_id, runs, asked_at, done_at FROM erasures
    WHERE done_at IS NULL AND id > :beyond ORDER BY id LIMIT :most
""")
COUNT = text("UPDATE erasures SET runs = runs + :more WHERE tenant = :tenant AND id = :id")
LEFT = text("""
    SELECT EXISTS (
        SELECT FROM deletions WHERE tenant = :tenant AND user_id = :user AND cleared_at IS NULL
    ) OR EXISTS (
        SELECT FROM runs WHERE tenant = :tenant AND user_id = :user AND created_at <= :before
    ) AS left
""")
"""Whether anything of the user's runs is there yet."""
PSEUDONYMISE = (
    text("""
        UPDATE ledger SET user_id = :pseudonym WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM ledger AS entry
            WHERE tenant = :tenant AND user_id = :user
                AND NOT EXISTS (SELECT FROM runs WHERE id = entry.run_id OFFSET 0)
            LIMIT :most
        ))
    """),
    text("""
        UPDATE deletions SET user_id = :pseudonym WHERE run_id = ANY(ARRAY(
            SELECT run_id FROM deletions
            WHERE tenant = :tenant AND user_id = :user AND cleared_at IS NOT NULL LIMIT :most
        ))
    """),
    text("""
        UPDATE api_keys SET user_id = :pseudonym WHERE id = ANY(ARRAY(
            SELECT id FROM api_keys
            WHERE tenant = :tenant AND user_id = :user AND kind = 'user' AND revoked_at IS NOT NULL LIMIT :most
        ))
    """),
)
"""Where a user is named otherwise than with a run that is there. Each takes some, and is sent until it takes none.
The OFFSET has runs looked up one by one: Postgres would read all of them, for how many it takes is a parameter."""
DONE = text("""
    UPDATE erasures SET user_id = NULL, done_at = now()
    WHERE tenant = :tenant AND id = :id AND asked_at = :asked_at AND done_at IS NULL
""")
"""Unless it was asked for again meanwhile."""
