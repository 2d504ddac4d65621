"""Answers that runs were given, to be given to others; and what calls that several runs share come to."""

from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Boolean, bindparam, case, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.domain.run import Status
from runstream.domain.transcript import Transcript
from runstream.domain.usage import ProviderCall, Usage
from runstream.storage.content import PLAIN, RUNS, Content
from runstream.storage.database import ask
from runstream.storage.rows import ledger_entry, usage_of
from runstream.storage.statements.parts import CALLED, ID, SECONDS
from runstream.storage.tables import attempts, ledger, runs
from runstream.storage.tenancy import WHOSE, bound

_ASKED = runs.alias("asked")
_ALIKE = ("tenant", "feature", "prompt_version", "model")
_SAME_INPUT = runs.c.input == _ASKED.c.input
_SEALED = or_(*(func.jsonb_typeof(each.c.input) == "string" for each in (runs, _ASKED)))
"""Then only who opens them can tell whether they are the same."""
_ANSWER = bound(
    select(
        runs.c.transcript,
        runs.c.finish_reason,
        runs.c.provider,
        runs.c.provider_model,
        runs.c.input_tokens,
        runs.c.output_tokens,
        runs.c.cached_tokens,
        runs.c.usage_estimated,
        *(
            case((_SEALED, each.c.input)).label(name)
            for each, name in ((runs, "answered_input"), (_ASKED, "asked_input"))
        ),
    )
    .join(_ASKED, _ASKED.c.id == bindparam("asked_by"))
    .where(
        runs.c.id == ID,
        *(runs.c[name] == _ASKED.c[name] for name in _ALIKE),
        or_(_SAME_INPUT, _SEALED),
        runs.c.complexity.is_not_distinct_from(_ASKED.c.complexity),
        runs.c.status == Status.COMPLETED,
        runs.c.transcript.is_not(None),
        ~runs.c.flagged,
        runs.c.finished_at > func.now() - SECONDS,
    )
)

_MARK_SHARED = bound(
    update(attempts)
    .where(attempts.c.run_id == bindparam("of_run"), attempts.c.attempt == bindparam("of_attempt"))
    .values(shared=True)
    .returning(attempts.c.run_id)
)
_AMEND = text("""
    WITH whose AS (SELECT :whose),
    run AS (
        SELECT runs.id, runs.tenant, runs.user_id, runs.feature, runs.model
        FROM runs JOIN attempts ON attempts.run_id = runs.id
        WHERE runs.id = :run_id AND attempts.attempt = :attempt AND attempts.outcome <> 'running'
        UNION ALL
        SELECT run_id, tenant, user_id, feature, model FROM deletions
        WHERE run_id = :run_id AND deleted_at IS NOT NULL
    ),
    was AS (SELECT cost FROM ledger WHERE run_id = :run_id AND attempt = :attempt AND call = :call),
    amended AS (
        INSERT INTO ledger (run_id, attempt, call, tenant, user_id, feature, model, provider, provider_model,
            input_tokens, output_tokens, cached_tokens, estimated, cost, price_version)
        SELECT id, :attempt, :call, tenant, user_id, feature, model, :provider,
            :provider_model, :input_tokens, :output_tokens, :cached_tokens, :estimated, :cost, :price_version
        FROM run
        ON CONFLICT (run_id, attempt, call) DO UPDATE SET provider = excluded.provider,
            provider_model = excluded.provider_model, input_tokens = excluded.input_tokens,
            output_tokens = excluded.output_tokens, cached_tokens = excluded.cached_tokens,
            estimated = excluded.estimated, cost = excluded.cost, price_version = excluded.price_version
        RETURNING run_id, attempt, tenant, cost
    ),
    added AS (SELECT amended.*, coalesce(amended.cost - was.cost, amended.cost, -was.cost) AS more
        FROM amended LEFT JOIN was ON true),
    raised AS (
        UPDATE tenants SET budget_epoch = budget_epoch + 1 FROM added WHERE :last AND tenants.id = added.tenant
    ),
    attempted AS (
        UPDATE attempts SET cost = coalesce(attempts.cost + added.more, added.more, attempts.cost) FROM added
        WHERE attempts.run_id = added.run_id AND attempts.attempt = added.attempt
    )
    UPDATE runs SET cost = coalesce(runs.cost + added.more, added.more, runs.cost) FROM added
    WHERE runs.id = added.run_id RETURNING runs.id
""").bindparams(
    *(bindparam(name, type_=ledger.c[name].type) for name in ("run_id", "attempt", *CALLED)),
    bindparam("last", type_=Boolean),
    WHOSE,
)
"""Nothing where the attempt is not over: whoever ends it enters what it came to. A deleted run is paid for as well."""


class Answer(NamedTuple):
    """`provider` and `model` are of the call that it took, which came to `usage`."""

    transcript: Transcript
    finish_reason: str
    provider: str
    model: str
    usage: Usage | None


class AnswerStore:
    def __init__(self, engine: AsyncEngine, content: Content = PLAIN) -> None:
        self._ask = partial(ask, engine)
        self._content = content

    async def get(self, tenant: str, run_id: str, *, asked_by: str, ttl: float) -> Answer | None:
        """The answer of a run of the tenant's, if it completed within the last `ttl` seconds.

        None as well where the run `asked_by`, which it is for, is another tenant's or asks for anything else: the rows
        themselves are compared, so whatever led here can be wrong. Raises Unavailable.
        """
        asked = {"run_id": run_id, "asked_by": asked_by, "seconds": timedelta(seconds=ttl)}
        rows = await self._ask(_ANSWER, whose=[tenant], **asked)
        if not rows:
            return None
        row = rows[0]
        opened = await self._content.opened(
            RUNS, tenant, run_id, {"transcript": row.transcript, "input": row.answered_input}
        )
        asked_input = (await self._content.opened(RUNS, tenant, asked_by, {"input": row.asked_input}))["input"]
        if _told(opened["input"]) != _told(asked_input):
            return None
        usage = usage_of(row._mapping)
        return Answer(
            Transcript.load(0, opened["transcript"]), row.finish_reason, row.provider, row.provider_model, usage
        )

    async def mark_shared(self, tenant: str, run_id: str, attempt: int) -> None:
        """An attempt's answer is of a call that another run began, and pays for. Raises Unavailable."""
        await self._ask(_MARK_SHARED, whose=[tenant], of_run=run_id, of_attempt=attempt)

    async def amend(
        self, tenant: str, run_id: str, attempt: int, number: int, call: ProviderCall, *, last: bool
    ) -> None:
        """Enter anew what a call of an attempt that is over came to: it went on for others.

        With the `last` word on it, the tenant's limits are to be counted anew. Raises Unavailable.
        """
        entry = ledger_entry(number, call)
        called = {name: entry[name] for name in CALLED}
        await self._ask(_AMEND, whose=[tenant], run_id=run_id, attempt=attempt, last=last, **called)


def _told(input: Any) -> bytes:
    """For comparison: Python takes 1 and true for the same."""
    return orjson.dumps(input, option=orjson.OPT_SORT_KEYS)
