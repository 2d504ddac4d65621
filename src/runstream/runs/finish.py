"""End a run: the row first, the announcement second."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import structlog
from redis.exceptions import RedisError

from runstream.counters.away import Away
from runstream.counters.book import Book
from runstream.crash_points import Point, reached
from runstream.domain import events
from runstream.domain.audit import Entry
from runstream.domain.cursor import Cursor
from runstream.domain.errors import Unavailable
from runstream.domain.limits import Settlement
from runstream.domain.run import UNKNOWN, Ending, Generation, KeptAnswer, Run, Status
from runstream.domain.transcript import Transcript
from runstream.domain.usage import ProviderCall, Usage, dollars, estimate
from runstream.metrics import COSTLY_CALLS, ENDED, ENDS_HELD
from runstream.storage.runs import RunStore
from runstream.stream.log import Append, TokenLog

_PAUSE = (0.1, 5.0)
"""Seconds between tries to write an end that Postgres does not take: the first, and the longest."""

_EVENTS = {
    Status.COMPLETED: events.COMPLETED,
    Status.FAILED: events.FAILED,
    Status.CANCELLED: events.CANCELLED,
}

log = structlog.get_logger(__name__)


class Settled(NamedTuple):
    """The end is written. `done` is to be counted; None where Postgres' answer was lost: then the sweep does it."""

    done: Settlement | None


class CallUnseen(Protocol):
    """See `Gateway.call_unseen`."""

    def __call__(self, run: Run, usage: Usage, answer: KeptAnswer | None = None) -> ProviderCall: ...


def completed(usage: Usage | None, cost: Decimal | None, finish_reason: str, *, cached: bool = False) -> dict[str, Any]:
    """The data of `run.completed`; `cost` is the run's, all its attempts together."""
    data = {
        "status": Status.COMPLETED,
        "finish_reason": finish_reason,
        "usage": usage_data(usage),
        "cost": dollars(cost),
    }
    return {**data, "cached": True} if cached else data


def usage_data(usage: Usage | None) -> dict[str, int | bool] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "estimated": usage.estimated,
    }


def terminal_event(status: Status) -> str:
    return _EVENTS[status]


async def count(book: Book, done: Settlement) -> None:
    """Have what an attempt came to counted in the place of what was reserved. What is not, the sweep finds.

    Calls that are to be warned of are: by who entered them in the ledger, and so once.
    """
    for call in done.costly:
        COSTLY_CALLS.inc()
        cost = dollars(Decimal(str(call["cost"])))
        log.warning("costly_call", **{**call, "cost": cost, "run_id": done.run_id, "tenant": done.tenant})
    if not done.reserved:
        return
    try:
        await book.settle(done)
    except Away as error:
        log.warning("spend_not_counted", run_id=done.run_id, error=str(error))


async def settle(store: RunStore, tenant: str, run_id: str, ending: Ending) -> Settled | None:
    """Write the end of an attempt by its own worker; None where a newer attempt has taken the run over.

    While Postgres does not answer, the result is held and tried again: only the guard decides. An answer lost on
    its way is recognised by what the row says.
    """
    pause = _PAUSE[0]
    asked_before = False
    done: Settlement | None = None
    while True:
        try:
            if done := await store.end(tenant, run_id, ending, was=Status.RUNNING, attempt=ending.attempt):
                break
            if not asked_before or not await store.ended_so(tenant, run_id, ending):
                return None
            break
        except Unavailable as error:
            ENDS_HELD.inc(0 if asked_before else 1)
            asked_before = True
            log.warning("end_not_written", run_id=run_id, error=error.message)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(pause * 2, _PAUSE[1])
    reached(Point.SETTLE_WRITTEN)
    ENDED.labels(ending.status).inc()
    return Settled(done)


async def end_unwritten(
    store: RunStore,
    token_log: TokenLog,
    book: Book,
    run: Run,
    *,
    status: Status,
    reason: str,
    error: Mapping[str, Any] | None = None,
    call_unseen: CallUnseen | None = None,
    kept: KeptAnswer | None = None,
    entry: Entry | None = None,
) -> bool:
    """End a run that no worker writes; False where its status or attempt is not `run`'s any more.

    The end takes the next attempt's number, so that whoever still writes the last one is fenced, and every reader
    sees the end as something new, wherever it was. Where there was an attempt, readers are told to forget it, for
    `reason`, and given again as much of what it said as is left in the log, unless its end was taken back: what they
    hold is then what the row holds. `call_unseen` says what the ledger keeps of an attempt that goes on, and `kept` is
    what that one's answer could have been read on by. An `entry` is made in the audit log with the end.
    """
    transcript = Transcript(run.attempt + 1)
    if run.attempt:
        transcript.append(events.RESTARTED, {"attempt": transcript.attempt, "reason": reason})
    if run.attempt > (run.retried_attempt or 0):
        await _take_what_is_left(transcript, token_log, run)
    characters = transcript.characters
    data = {"partial": bool(characters)} if error is None else {"error": error, "partial": bool(characters)}
    transcript.append(terminal_event(status), data)
    ending = Ending(
        status,
        transcript.attempt,
        transcript.dump(),
        output=transcript.text() if characters else None,
        reasoning=transcript.reasoning() or None,
        tool_calls=transcript.tool_calls() or None,
        error=error,
        generation=unseen(run, characters, call_unseen, kept),
    )
    done = await store.end(run.tenant, run.id, ending, was=run.status, attempt=run.attempt, entry=entry)
    if done is None:
        return False
    reached(Point.UNWRITTEN_ENDED)
    await count(book, done)
    ENDED.labels(status).inc()
    try:
        await token_log.append([Append(run.id, transcript.attempt, 0, transcript.since(0))])
    except (RedisError, OSError, TimeoutError) as unsaid:
        log.warning("end_not_announced", run_id=run.id, error=type(unsaid).__name__)
    return True


def unseen(run: Run, characters: int, call: CallUnseen | None, kept: KeptAnswer | None = None) -> Generation:
    """What is known of an attempt of which only so much that it said is left, and what its answer can be read on by.

    One that goes on may have called its provider though it has said nothing yet, which bills the prompt.
    """
    if not characters and call is None:
        return UNKNOWN
    usage = estimate(run.input or {}, characters)
    calls = [call(run, usage, kept)] if call else ()
    if kept is None:
        return Generation(usage=usage, calls=calls)
    return Generation(kept.provider, kept.model, usage=usage, calls=calls, goes_on=kept)


def owing(generation: Generation) -> Generation:
    """The same, where another attempt is to follow: the call that it reads on is not paid for now."""
    answer = generation.goes_on
    if answer is None or not generation.calls:
        return generation
    *calls, owed = generation.calls
    return replace(generation, calls=calls, goes_on=replace(answer, owed=owed))


async def _take_what_is_left(transcript: Transcript, token_log: TokenLog, run: Run) -> None:
    """Add what the run's last attempt said, of all kinds, as far as its log holds it."""
    cursor, more = Cursor(run.attempt, 0), True
    try:
        while more:
            entries, more = await token_log.read(run.id, cursor)
            for entry in entries:
                cursor = entry.cursor
                if entry.attempt == run.attempt and entry.type in events.COUNTED:
                    transcript.append(entry.type, entry.event().data)
    except (RedisError, OSError, TimeoutError) as error:
        log.warning("text_not_kept", run_id=run.id, error=type(error).__name__)
