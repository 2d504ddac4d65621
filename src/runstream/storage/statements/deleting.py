"""Delete runs: note that it is asked for, take the row away, note what is done.

What a table has of a run goes with the run's row by a foreign key (`ON DELETE CASCADE`); what stays, as the ledger, has
none, and holds nothing of what was said.
"""

from sqlalchemy import ARRAY, String, bindparam, text

from runstream.storage.tenancy import WHOSE

_RUNS = bindparam("run_ids", type_=ARRAY(String))

ASK = text("""
    WITH whose AS (SELECT :whose)
    INSERT INTO deletions (run_id, tenant, user_id, feature, model, created_at)
    SELECT id, tenant, user_id, feature, model, created_at FROM runs
    WHERE tenant = :tenant AND user_id = coalesce(CAST(:user AS text), user_id) AND id = :run_id
    ON CONFLICT (run_id) DO UPDATE SET asked_at = deletions.asked_at
    RETURNING run_id, tenant, attempt, cleared_at IS NOT NULL AS cleared
""").bindparams(WHOSE)
ASKED = text("""
    WITH whose AS (SELECT :whose)
    SELECT run_id, tenant, attempt, cleared_at IS NOT NULL AS cleared FROM deletions
    WHERE tenant = :tenant AND user_id = coalesce(CAST(:user AS text), user_id) AND run_id = :run_id
""").bindparams(WHOSE)
ASK_ALL = text("""
    WITH whose AS (SELECT :whose)
    INSERT INTO deletions (run_id, tenant, user_id, feature, model, created_at)
    SELECT id, tenant, user_id, feature, model, created_at FROM runs
    WHERE tenant = :tenant AND user_id = :user AND created_at <= :before
        AND NOT EXISTS (SELECT FROM deletions WHERE run_id = runs.id)
    ORDER BY id DESC LIMIT :most
    ON CONFLICT (run_id) DO NOTHING
    RETURNING run_id
""").bindparams(WHOSE)
"""Of one user, some of those that were made before."""
OPEN = text("""
    SELECT run_id, tenant, attempt FROM deletions
    WHERE cleared_at IS NULL AND run_id > :beyond ORDER BY run_id LIMIT :most
""")
DELETE = text("""
    WITH whose AS (SELECT :whose), gone AS (
        DELETE FROM runs USING deletions
        WHERE runs.id = ANY(:run_ids) AND deletions.run_id = runs.id AND finished_at IS NOT NULL
            AND NOT EXISTS (SELECT FROM attempts WHERE attempts.run_id = runs.id AND response_id IS NOT NULL)
        RETURNING runs.id, runs.attempt
    )
    UPDATE deletions SET deleted_at = now(), attempt = coalesce(gone.attempt, 0)
    FROM unnest(:run_ids) AS asked (id) LEFT JOIN gone ON gone.id = asked.id
    WHERE deletions.run_id = asked.id AND deletions.deleted_at IS NULL
        AND (gone.id IS NOT NULL OR NOT EXISTS (SELECT FROM runs WHERE runs.id = asked.id))
    RETURNING run_id, tenant, deletions.attempt
""").bindparams(WHOSE, _RUNS)
"""Those that have ended, and whose answers no provider goes on with; or that are gone, by whoever."""
CLEARED = text("""
    WITH whose AS (SELECT :whose)
    UPDATE deletions SET cleared_at = now() WHERE run_id = ANY(:run_ids)
""").bindparams(WHOSE, _RUNS)
FORGET = text("""
    DELETE FROM deletions WHERE run_id = ANY(ARRAY(
        SELECT run_id FROM deletions WHERE cleared_at < now() - CAST(:kept AS interval) ORDER BY cleared_at LIMIT 1000
    ))
""")
