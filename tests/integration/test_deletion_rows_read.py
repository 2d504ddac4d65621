"""However much there is, deleting runs and erasing a user read about as many rows as go: see `test_rows_read`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from rows_read import rows_read
from runstream.domain.principal import Owner
from runstream.storage.database import connect
from runstream.storage.deletions import DeletionStore
from runstream.storage.erasures import ErasureStore
from runstream.storage.exporting import ExportStore

DEADLINE = 60
RUNS, A_USERS = 20_000, 200
TABLES = ("runs", "attempts", "ledger", "deletions", "erasures", "api_keys", "webhook_deliveries")
FILL = f"""
    INSERT INTO tenants (id) VALUES ('acme');
    INSERT INTO runs (id, tenant, user_id, feature, prompt_version, input, model, queue, status, attempt, max_attempts,
                      finished_at)
        SELECT 'run_' || lpad(n::text, 26, '0'), 'acme', 'user-' || n % {RUNS // A_USERS}, 'chat', '1', '{{}}', 'fast',
               'default', 'completed', 1, 3, now()
        FROM generate_series(0, {RUNS - 1}) n;
    INSERT INTO attempts (run_id, attempt, tenant, worker, outcome, ended_at)
        SELECT id, 1, tenant, 'worker-1', 'completed', finished_at FROM runs;
    INSERT INTO ledger (run_id, attempt, call, tenant, user_id, feature, model, provider, provider_model, input_tokens,
                        output_tokens, cached_tokens, estimated)
        SELECT id, 1, 1, tenant, user_id, 'chat', 'fast', 'p', 'm', 1, 1, 0, false FROM runs;
    INSERT INTO deletions (run_id, tenant, user_id, feature, model, attempt, deleted_at, cleared_at)
        SELECT 'gone_' || n, 'acme', 'user-' || n % {RUNS // A_USERS}, 'chat', 'fast', 1, now(), now()
        FROM generate_series(0, {RUNS - 1}) n;
    INSERT INTO api_keys (id, kind, tenant, user_id, scopes, hash, hint)
        SELECT 'key_' || n, 'user', 'acme', 'user-' || n, '{{}}', decode(md5(n::text), 'hex'), 'h'
        FROM generate_series(0, {RUNS // A_USERS - 1}) n;
    ANALYZE;
    DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET plan_cache_mode = force_generic_plan', current_database()); END $$
"""


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    connection = await asyncpg.connect(database_url, timeout=DEADLINE, command_timeout=DEADLINE)
    await connection.execute(FILL)
    await connection.close()
    engine = connect(database_url, pool_size=1, timeout=DEADLINE)
    yield engine
    await engine.dispose()


async def test_what_goes_is_found_and_taken_away_by_what_goes(engine: AsyncEngine) -> None:
    deletions, erasures = DeletionStore(engine), ErasureStore(engine)
    one = "run_" + "1".rjust(26, "0")
    later = datetime.now(UTC) + timedelta(days=1)
    erasure = await erasures.ask("acme", "user-7")
    steps: dict[str, tuple[Callable[[], Awaitable[Any]], int]] = {
        "ask for one": (lambda: deletions.ask(Owner("acme", "user-1"), one), 10),
        "ask for a user's": (lambda: deletions.ask_all("acme", "user-7", before=later, limit=100), 500),
        "ask for the rest": (lambda: deletions.ask_all("acme", "user-7", before=later, limit=1000), 1000),
        "find": (lambda: deletions.open(beyond="", limit=100), 300),
        "take away": (take_away(deletions), 3000),
        "see whether it is done": (lambda: erasures.left(erasure), 50),
        "put a pseudonym": (lambda: erasures.pseudonymise(erasure), 3000),
    }
    for name, (step, most) in steps.items():
        assert await rows_read(engine, step, *TABLES) <= most, name
    assert not await erasures.left(erasure)


def take_away(deletions: DeletionStore) -> Callable[[], Awaitable[None]]:
    async def step() -> None:
        while asked := await deletions.open(beyond="", limit=100):
            gone = await deletions.delete(asked)
            assert len(gone) == len(asked)
            await deletions.cleared(gone)

    return step


async def test_an_export_reads_what_it_shows(engine: AsyncEngine) -> None:
    store = ExportStore(engine)
    at = await store.now()

    async def exported() -> None:
        assert len([run async for run in store.runs("acme", "user-7", at)]) == A_USERS
        assert len([entry async for entry in store.ledger("acme", "user-7", at)]) == A_USERS

    assert await rows_read(engine, exported, *TABLES) <= 10 * A_USERS
