"""Content is sealed for its place, by keys that are wrapped by others, both of which are exchanged under way."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from clock import Clock
from in_process import working
from plain_text import found
from runstream.commands.encryption import rotate, status
from runstream.doctor.encryption import check_encryption
from runstream.doctor.finding import Mark
from runstream.domain.errors import ConfigurationError, ContentUnreadable
from runstream.domain.feedback import FeedbackEvent, Given
from runstream.domain.ids import new_id
from runstream.domain.principal import Owner
from runstream.domain.run import Claim, Ending, Request, Status
from runstream.domain.webhook import Secret, Webhook
from runstream.sealing.master_keys import MasterKeys
from runstream.settings import Settings
from runstream.storage.content import PLAIN, content_with
from runstream.storage.data_keys import LONGEST, DataKeys
from runstream.storage.deliveries import DeliveryStore
from runstream.storage.feedback import FeedbackStore
from runstream.storage.required_keys import require
from runstream.storage.resealing import Resealed, Resealing, pending, rewrap
from runstream.storage.run_content import Unread
from runstream.storage.runs import RunStore
from runstream.storage.webhooks import WebhookStore

TENANT, OTHER = "acme", "other"
OLD, NEW = b"o" * 32, b"n" * 32
MASTERS = MasterKeys([OLD])
INPUT = {"messages": [{"role": "user", "content": "asked-4711"}]}
REQUEST = Request("chat", "1", "fast", INPUT, {"note": "noted-4711"})
ENDING = Ending(
    Status.FAILED,
    1,
    [["run.delta", {"text": "said-4711"}]],
    "said-4711",
    error={"code": "provider_refused", "message": "refused-4711"},
    reasoning="thought-4711",
    tool_calls=[{"id": "called-4711"}],
)
TEXTS = ("asked-4711", "noted-4711", "said-4711", "refused-4711", "thought-4711", "called-4711", "secret-4711")
WEBHOOK = Webhook(
    id="whk_1",
    tenant=TENANT,
    url="https://example.com",
    events=["run.failed"],
    description="",
    include_output=False,
    secrets=[Secret("secret-4711")],
    created_at=datetime.now(UTC),
)


@pytest.fixture(autouse=True)
async def tenants(database: asyncpg.Connection) -> None:
    await database.executemany("insert into tenants (id) values ($1)", [(TENANT,), (OTHER,)])


@pytest.fixture
def plain(engine: AsyncEngine) -> RunStore:
    return RunStore(engine)


@pytest.fixture
def sealed(engine: AsyncEngine) -> RunStore:
    return store_with(engine, MASTERS)


def store_with(engine: AsyncEngine, masters: MasterKeys | None) -> RunStore:
    """As a process has it that was just started."""
    return RunStore(engine, content=content_with(engine, masters))


async def asked(store: RunStore, tenant: str = TENANT, body_hash: bytes | None = None) -> str:
    run_id = new_id("run")
    key = run_id if body_hash else None
    given = {"tenant": tenant, "user": "ada", "queue": "q", "max_attempts": 1}
    await store.insert(run_id, **given, request=REQUEST, idempotency_key=key, body_hash=body_hash)
    return run_id


async def ended(store: RunStore, tenant: str = TENANT) -> str:
    run_id = await asked(store, tenant)
    await store.claim(tenant, run_id, "worker-1")
    assert await store.end(tenant, run_id, ENDING, was=Status.RUNNING, attempt=1)
    return run_id


async def told(store: RunStore, run_id: str, tenant: str = TENANT) -> list[Any]:
    """All of a run's content."""
    owner = Owner(tenant, None)
    run, standing = await store.get(owner, run_id), await store.standing(owner, run_id)
    assert run
    assert standing
    transcript = standing.transcript and standing.transcript.dump()
    (attempt,) = await store.attempts(tenant, run_id)
    return [run.input, run.metadata, run.output, run.reasoning, run.tool_calls, run.error, transcript, attempt.error]


WHOLE = [
    INPUT,
    REQUEST.metadata,
    ENDING.output,
    ENDING.reasoning,
    ENDING.tool_calls,
    ENDING.error,
    ENDING.transcript,
    ENDING.error,
]


async def resealed(overall: AsyncEngine, masters: MasterKeys = MASTERS, **given: Any) -> Resealed:
    """As the command does it."""
    resealing = Resealing(overall, masters, **given)
    await resealing.new_keys()
    *_, done = [done async for done in resealing.content()]
    return done


async def test_what_is_sealed_is_told_whole_and_is_in_no_column(sealed: RunStore, database: asyncpg.Connection) -> None:
    run_id = await ended(sealed)
    assert await told(sealed, run_id) == WHOLE
    assert await found(database, TEXTS) == set()


async def test_what_is_not_sealed_is_found(plain: RunStore, database: asyncpg.Connection) -> None:
    """The search that the tests go by would find it."""
    await ended(plain)
    assert {text for _, _, text in await found(database, TEXTS)} == {*TEXTS} - {"secret-4711"}


async def test_rows_of_before_and_of_after_stand_side_by_side(
    plain: RunStore, sealed: RunStore, engine: AsyncEngine
) -> None:
    before, half = await ended(plain), await asked(plain)
    assert isinstance(await sealed.claim(TENANT, half, "worker-1"), Claim)
    assert await sealed.end(TENANT, half, ENDING, was=Status.RUNNING, attempt=1)
    for run_id in (before, half):
        assert await told(sealed, run_id) == WHOLE
    assert await told(plain, before) == WHOLE
    with pytest.raises(ContentUnreadable):
        await told(plain, half)


async def test_a_plain_text_that_looks_sealed_is_told_as_it_was_said(plain: RunStore, sealed: RunStore) -> None:
    for text in ("sealed:", "sealed:v1:dk_1:AAAA", "sealed:plain:x"):
        for store in (plain, sealed):
            run_id = await asked(store)
            await store.claim(TENANT, run_id, "worker-1")
            ending = Ending(Status.FAILED, 1, [], text, error={"code": "c", "message": text}, reasoning=text)
            assert await store.end(TENANT, run_id, ending, was=Status.RUNNING, attempt=1)
            run = await sealed.get(Owner(TENANT, None), run_id)
            assert run
            assert (run.output, run.reasoning, run.error) == (text, text, ending.error)


@pytest.mark.parametrize(
    "moved",
    [
        "update runs set input = (select input from runs where id = $2) where id = $1",
        "update runs set output = reasoning where id = $1 and $2 <> ''",
        "update runs set metadata = input where id = $1 and $2 <> ''",
        "update runs set tenant = 'other' where id = $1 and $2 <> ''",
    ],
)
async def test_what_was_moved_to_another_row_column_or_tenant_does_not_open(
    sealed: RunStore, database: asyncpg.Connection, moved: str
) -> None:
    run_id, other = await ended(sealed), await ended(sealed)
    await ended(sealed, OTHER)
    assert await database.execute(moved, run_id, other) == "UPDATE 1"
    tenant = await database.fetchval("select tenant from runs where id = $1", run_id)
    with pytest.raises(ContentUnreadable):
        await sealed.get(Owner(tenant, None), run_id)
    outline = await sealed.outline(Owner(tenant, None), run_id)
    assert outline
    assert outline.error
    assert (outline.status, outline.error["code"]) == ("failed", "content_unreadable")


@pytest.mark.promise("P4")
async def test_a_hash_of_a_body_is_sealed_and_those_of_before_are_good(plain: RunStore, sealed: RunStore) -> None:
    body = os.urandom(32)
    for store in (plain, sealed):
        run_id = await asked(store, body_hash=body)
        for again, same in ((body, True), (os.urandom(32), False)):
            earlier = await sealed.earlier(TENANT, "ada", run_id, again)
            assert earlier
            assert (earlier.run.id, earlier.same_body) == (run_id, same)


@pytest.mark.promise("P1")
async def test_a_worker_that_cannot_read_a_run_gives_it_back_and_another_runs_it(
    sealed: RunStore, database: asyncpg.Connection, database_url: str, redis_url: str
) -> None:
    run_id = await asked(sealed)
    async with working(database_url, redis_url) as worker:
        await worker.execute(TENANT, run_id)
        assert worker.asked == []
    row = await database.fetchrow("select *, available_at > now() as waits from runs where id = $1", run_id)
    assert row
    assert (row["status"], row["restart_reason"], row["waits"]) == ("queued", "content_unreadable", True)
    assert row["max_attempts"] == 2, "it counts for nothing"
    await database.execute("update runs set available_at = now()")
    claim = await sealed.claim(TENANT, run_id, "worker-2")
    assert isinstance(claim, Claim)
    assert (claim.attempt, claim.input) == (2, INPUT)


async def test_data_keys_are_wrapped_anew_and_no_content_is_touched(
    sealed: RunStore, engine: AsyncEngine, overall: AsyncEngine, database: asyncpg.Connection
) -> None:
    run_id = await ended(sealed)
    stored = await database.fetchrow("select * from runs")
    with pytest.raises(ConfigurationError, match=MASTERS.used):
        await require(overall, MasterKeys([NEW]))
    both = MasterKeys([NEW, OLD])
    assert [await rewrap(overall, both) for _ in range(2)] == [1, 0]
    await require(overall, MasterKeys([NEW]))
    assert await told(store_with(engine, MasterKeys([NEW])), run_id) == WHOLE
    assert await told(sealed, run_id) == WHOLE, "who has it unwrapped goes on"
    with pytest.raises(ContentUnreadable):
        await told(store_with(engine, MASTERS), run_id)
    assert await database.fetchrow("select * from runs") == stored


@pytest.mark.parametrize(
    ("given", "mark", "text"),
    [
        ([OLD], Mark.OK, f"Content is encrypted with {MASTERS.used}."),
        ([NEW, OLD], Mark.ADVICE, "run 'runstream encryption rotate'"),
        ([NEW], Mark.PROBLEM, f"lacks {MASTERS.used}, by which 1 data keys are wrapped"),
        ([], Mark.PROBLEM, f"lacks {MASTERS.used}"),
    ],
)
async def test_the_doctor_says_which_keys_are_needed(
    sealed: RunStore, database_url: str, given: list[bytes], mark: Mark, text: str
) -> None:
    await asked(sealed)
    keys = [b64encode(key).decode() for key in given]
    (finding,) = await check_encryption(Settings(_env_file=None, database_url=database_url, encryption_keys=keys))
    assert finding.mark is mark
    assert text in finding.text


async def test_all_that_is_plain_is_sealed(
    plain: RunStore, sealed: RunStore, engine: AsyncEngine, overall: AsyncEngine, database: asyncpg.Connection
) -> None:
    hooks = WebhookStore(engine)
    await hooks.add(WEBHOOK, most=1)
    runs = [await ended(plain), await ended(plain, OTHER)]
    keyed = await asked(plain, body_hash=bytes(32))
    owner, edited = Owner(TENANT, None), Given(FeedbackEvent.EDITED, text="said-4711", rating=1, comment="noted-4711")
    assert await FeedbackStore(engine).give(owner, runs[0], edited)
    assert {table for table, _, _ in await found(database, TEXTS)} == {*await pending(overall)}
    done = await resealed(overall, rows=1)
    assert (done.rows, done.unreadable, done.busy, done.kept) == (8, 0, False, 0)
    assert await found(database, TEXTS) == set()
    assert set((await pending(overall)).values()) == {0}
    assert [await told(sealed, run, tenant) for run, tenant in zip(runs, (TENANT, OTHER), strict=True)] == [WHOLE] * 2
    earlier = await sealed.earlier(TENANT, "ada", keyed, bytes(32))
    assert earlier
    assert earlier.same_body
    given = await FeedbackStore(engine, content_with(engine, MASTERS)).get(owner, runs[0])
    assert given
    assert (given.text, given.comment) == (edited.text, edited.comment)
    (webhook,) = await WebhookStore(engine, content_with(engine, MASTERS)).list(TENANT)
    assert webhook.secrets == WEBHOOK.secrets
    data = await database.fetchval("select data ->> 'metadata' from webhook_deliveries")
    assert data.startswith("sealed:")


async def test_content_that_statements_take_away_is_gone_and_the_rest_is_sealed_anew(
    sealed: RunStore, overall: AsyncEngine, database: asyncpg.Connection
) -> None:
    run_id = await ended(sealed)
    removed = """input = 'null', output = null, error = error || '{"message": "It was removed."}'"""
    await database.execute(f"update runs set {removed}")
    await resealed(overall)
    done = await resealed(overall)
    assert (done.rows, done.unreadable) == (2, 0)
    run = await sealed.get(Owner(TENANT, None), run_id)
    assert run
    assert (run.input, run.output, run.reasoning) == (None, None, ENDING.reasoning)
    assert run.error == {"code": "provider_refused", "message": "It was removed."}


async def test_a_rotation_of_data_keys_that_was_interrupted_goes_on_and_drops_the_old_ones_when_it_may(
    sealed: RunStore, engine: AsyncEngine, overall: AsyncEngine, database: asyncpg.Connection
) -> None:
    runs = [await ended(sealed) for _ in range(3)]
    await resealed(overall)  # nothing but to note that the first key is all there is
    (first,) = await data_keys(database)
    resealing = Resealing(overall, MASTERS, rows=1)
    assert await resealing.new_keys() == 1
    async for done in resealing.content():
        if done.rows == 2:
            break
    again = Resealing(overall, MASTERS)
    assert await again.new_keys() == 0
    *_, done = [each async for each in again.content()]
    assert (done.rows, done.dropped, done.kept) == (4, 0, 1), "three runs and their attempts"
    assert done.again
    assert done.again > datetime.now(UTC)
    assert len(await data_keys(database)) == 2
    await ended(sealed)  # by a process that knows of no newer key
    done = await resealed(overall, grace=timedelta())
    assert (done.rows, done.dropped, done.kept) == (2, 1, 0)
    (last,) = await data_keys(database)
    assert last != first
    for run_id in runs:
        assert await told(store_with(engine, MASTERS), run_id) == WHOLE
        assert await told(sealed, run_id) == WHOLE, "who has the old key looks for the new one"


async def data_keys(database: asyncpg.Connection) -> list[str]:
    return [row["id"] for row in await database.fetch("select id from data_keys order by id")]


async def test_rows_that_others_have_or_change_are_left_to_another_pass(
    plain: RunStore, sealed: RunStore, overall: AsyncEngine, database: asyncpg.Connection
) -> None:
    busy, free = await asked(plain), await ended(plain)
    async with database.transaction():
        await database.execute("select from runs where id = $1 for update", busy)
        done = await resealed(overall)
        assert (done.rows, done.busy, done.dropped) == (2, True, 0)
    resealing = Resealing(overall, MASTERS, rows=1)
    await asked(plain)
    async for done in resealing.content():
        if done.rows == 0:
            continue
        await plain.claim(TENANT, busy, "worker-1")
    assert not done.busy
    assert (await sealed.get(Owner(TENANT, None), busy)).status is Status.RUNNING  # type: ignore[union-attr]
    assert await told(sealed, free) == WHOLE
    assert await found(database, TEXTS) == set()


@pytest.mark.promise("P1")
async def test_an_end_that_is_written_while_its_run_is_sealed_anew_stays(
    plain: RunStore, sealed: RunStore, overall: AsyncEngine
) -> None:
    run_id = await asked(plain)
    await plain.claim(TENANT, run_id, "worker-1")

    class Slow(Resealing):
        async def _anew(self, table: Any, row: Any) -> dict[str, Any]:
            await plain.end(TENANT, run_id, ENDING, was=Status.RUNNING, attempt=1)
            return await super()._anew(table, row)

    *_, done = [done async for done in Slow(overall, MASTERS).content()]
    assert (done.rows, done.busy) == (2, False), "the run, in a second pass, and its attempt"
    assert await told(sealed, run_id) == WHOLE


async def test_what_cannot_be_opened_stops_no_rotation_and_keeps_its_tenants_keys(
    sealed: RunStore, overall: AsyncEngine, database: asyncpg.Connection
) -> None:
    broken, whole = await ended(sealed), await ended(sealed, OTHER)
    await resealed(overall)
    await database.execute("update runs set output = reasoning where id = $1", broken)
    done = await resealed(overall, grace=timedelta())
    assert (done.unreadable, done.dropped) == (1, 1)
    kept = await database.fetch("select tenant, count(*) from data_keys group by 1 order by 1")
    assert [tuple(row) for row in kept] == [(TENANT, 2), (OTHER, 1)]
    assert await told(sealed, whole, OTHER) == WHOLE


async def test_secrets_are_exchanged_though_they_are_sealed_anew_meanwhile(
    engine: AsyncEngine, overall: AsyncEngine, database: asyncpg.Connection
) -> None:
    hooks = WebhookStore(engine, content_with(engine, MASTERS))
    await hooks.add(WEBHOOK, most=1)
    assert await found(database, TEXTS) == set()
    (webhook,) = await hooks.list(TENANT)
    await resealed(overall)
    await resealed(overall)
    other = [Secret("secret-4712"), *webhook.secrets]
    assert await hooks.exchange_secrets(TENANT, webhook.id, [Secret("wrong")], other) is None
    changed = await hooks.exchange_secrets(TENANT, webhook.id, webhook.secrets, other)
    assert changed
    assert changed.secrets == other


async def test_a_delivery_that_cannot_be_opened_waits_and_counts_for_nothing(
    sealed: RunStore, engine: AsyncEngine, overall: AsyncEngine, database: asyncpg.Connection
) -> None:
    content = content_with(engine, MASTERS)
    await WebhookStore(engine, content).add(WEBHOOK, most=1)
    run_id = await ended(sealed)
    blind, seeing = (DeliveryStore(engine, overall, each, patience=60) for each in (PLAIN, content))
    (due,) = await blind.waiting(beyond="", limit=1)
    assert await blind.take([due], lease=60) == []
    assert await seeing.take([due], lease=60) == []
    await database.execute("update webhook_deliveries set due_at = now()")
    (sent,) = await seeing.take([due], lease=60)
    assert (sent.run_id, sent.number, sent.webhook.secrets) == (run_id, 1, WEBHOOK.secrets)
    assert (sent.data["metadata"], sent.data["error"]) == (REQUEST.metadata, ENDING.error)


async def test_the_status_names_each_key_and_what_it_wraps(
    sealed: RunStore, plain: RunStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asked(sealed)
    await asked(plain, OTHER)
    monkeypatch.setenv("RUNSTREAM_DATABASE_URL", database_url)
    both = MasterKeys([NEW, OLD])
    monkeypatch.setenv("RUNSTREAM_ENCRYPTION_KEYS", json.dumps([b64encode(key).decode() for key in (NEW, OLD)]))
    assert [line async for line in status(content=True)] == [
        f"Content is encrypted with {both.used}.",
        f"{both.used}  wraps 0 data keys",
        f"{MASTERS.used}  wraps 1 data keys",
        "runs: 1 rows to be encrypted",
        "attempts: 0 rows to be encrypted",
        "feedback: 0 rows to be encrypted",
        "webhooks: 0 rows to be encrypted",
        "webhook_deliveries: 0 rows to be encrypted",
    ]
    monkeypatch.delenv("RUNSTREAM_ENCRYPTION_KEYS")
    with pytest.raises(ConfigurationError, match=MASTERS.used):
        _ = [line async for line in status(content=False)]
    with pytest.raises(ConfigurationError, match="set RUNSTREAM_ENCRYPTION_KEYS"):
        _ = [line async for line in rotate(content=False)]


async def test_without_its_data_keys_a_tenants_content_is_gone_and_no_others(
    sealed: RunStore, engine: AsyncEngine
) -> None:
    gone, kept = await ended(sealed), await ended(sealed, OTHER)
    queued = await asked(sealed)
    assert await DataKeys(engine, MASTERS).drop(TENANT) == 1
    after = store_with(engine, MASTERS)
    with pytest.raises(ContentUnreadable):
        await told(after, gone)
    assert await after.claim(TENANT, queued, "worker-1") == Unread(TENANT, queued, 1)
    assert await told(after, kept, OTHER) == WHOLE


async def test_a_process_knows_what_it_read_for_five_minutes_and_looks_again_meanwhile(
    sealed: RunStore, engine: AsyncEngine
) -> None:
    clock = Clock()
    keys, others = DataKeys(engine, MASTERS, clock=clock), DataKeys(engine, MASTERS)
    first = await keys.newest(TENANT)
    await others.drop(TENANT)
    assert (await keys.newest(TENANT)).id == first.id
    second = await others.newest(TENANT)
    assert (await keys.named(TENANT, second.id)).id == second.id, "one that is newer is looked for"
    with pytest.raises(ContentUnreadable):
        await keys.named(TENANT, first.id)
    await others.drop(TENANT)
    clock.now += LONGEST
    with pytest.raises(ContentUnreadable):
        await keys.named(TENANT, second.id)


async def test_sealing_asks_nothing_of_postgres_for_each_run(engine: AsyncEngine) -> None:
    counts = {}
    for name, masters in (("plain", None), ("sealed", MASTERS)):
        store = store_with(engine, masters)
        await told(store, await ended(store))  # which asks for the key
        with statements(engine) as counted:
            await told(store, await ended(store))
        counts[name] = len(counted)
    assert counts["sealed"] == counts["plain"] > 0


@contextmanager
def statements(engine: AsyncEngine) -> Iterator[list[str]]:
    """Those that are asked meanwhile."""
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)
