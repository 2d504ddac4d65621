"""What the runs commands do, straight at the database: for those who run the service.

Redis is told where it answers, so that things happen at once; where it does not, workers find them in Postgres.
"""

import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from redis.asyncio import Redis
from redis.exceptions import RedisError

from runstream.connections import master_keys, open_log, redis_client
from runstream.counters.book import Book
from runstream.domain.audit import Action, Actor
from runstream.domain.durations import in_seconds
from runstream.domain.errors import NotFound
from runstream.domain.ids import first_id
from runstream.domain.principal import Owner
from runstream.domain.run import AttemptRecord, Run, Status
from runstream.domain.usage import Usage
from runstream.logs import configure
from runstream.queue.enqueue import JobQueue
from runstream.redis_script import Scripts
from runstream.runs.cancel import stop
from runstream.runs.retry import refusal, try_again
from runstream.settings import load
from runstream.storage.audit import AuditStore
from runstream.storage.command import opened
from runstream.storage.content import content_with
from runstream.storage.lists import AllRuns
from runstream.storage.runs import RunStore
from runstream.stream.log import TokenLog
from runstream.terminal import at_terminal, plain

_PAGE = 100


async def listed(*, status: Status | None, tenant: str | None, since: str | None, limit: int) -> list[str]:
    """A line for each run, newest first."""
    async with _desk() as desk:
        runs = await desk.all_runs.newest(tenant=tenant, status=status, since=_first(since), before=None, limit=limit)
        await desk.audit.append(desk.by.entry(Action.RUN_LISTED, tenant=tenant, target=None))
    return [_line(run) for run in runs]


async def shown(run_id: str, *, content: bool) -> list[str]:
    """A run and its attempts; what was asked and answered only with `content`. Raises NotFound."""
    async with _desk() as desk:
        run = await desk.all_runs.find(run_id)
        if run is None:
            raise NotFound(f"There is no run {run_id!r}.")
        attempts = await desk.store.attempts(run.tenant, run.id)
        await desk.audit.append(desk.by.entry(Action.RUN_READ, tenant=run.tenant, target=run.id, content=content))
    return [*_about(run), *map(_about_attempt, attempts), *(_content(run) if content else ())]


async def retry(run_ids: Sequence[str]) -> AsyncIterator[tuple[bool, str]]:
    """Whether each run was queued again, and a sentence on it."""
    async with _desk() as desk:
        for run_id in run_ids:
            run = await desk.all_runs.find(run_id)
            if run is None:
                yield False, f"{run_id}: There is no such run."
            elif why := refusal(run):
                yield False, f"{run_id}: {why}"
            else:
                yield await desk.retry(run)


async def retry_failed(since: str, tenant: str | None) -> AsyncIterator[tuple[bool, str]]:
    """The same for each run that was asked for in this time and has failed, each once, whatever comes of it."""
    async with _desk() as desk:
        before: str | None = None
        while failed := await desk.all_runs.newest(
            tenant=tenant, status=Status.FAILED, since=_first(since), before=before, limit=_PAGE
        ):
            for run in failed:
                yield await desk.retry(run)
            before = failed[-1].id


async def cancel(run_ids: Sequence[str]) -> AsyncIterator[tuple[bool, str]]:
    """Whether each run has ended or will do so, and a sentence on it."""
    async with _desk() as desk:
        for run_id in run_ids:
            found = await desk.all_runs.find(run_id)
            if found is None:
                yield False, f"{run_id}: There is no such run."
                continue
            owner = Owner(found.tenant, None)
            run = await stop(desk.store, desk.token_log, desk.book, desk.redis, owner, found.id, by=desk.by)
            if found.status.ended:
                yield True, f"{run_id}: It has ended already ({run.status})."
            else:
                yield True, f"{run_id}: {'It is cancelled' if run.status.ended else 'Its worker is told to stop'}."


@dataclass(slots=True)
class _Desk:
    """What a command works with, and who gives it."""

    by: Actor
    audit: AuditStore
    store: RunStore
    all_runs: AllRuns
    jobs: JobQueue
    redis: Redis
    token_log: TokenLog
    book: Book
    redis_answers: bool = True

    async def retry(self, run: Run) -> tuple[bool, str]:
        if await try_again(self.store, run, by=self.by) is None:
            return False, f"{run.id}: It has changed meanwhile."
        at_once = await self._enqueue(run)
        after = f"{run.id}: Queued again after attempt {run.attempt}{_because(run)}."
        return True, after if at_once else f"{after} Redis does not answer, so it may take some seconds to begin."

    async def _enqueue(self, run: Run) -> bool:
        """Where Redis has failed once it is not asked again: each call could take as long."""
        try:
            if self.redis_answers:
                await self.jobs.enqueue(run.id, run.attempt, run.queue, tenant=run.tenant, priority=run.priority)
        except (RedisError, OSError, TimeoutError):
            self.redis_answers = False
        return self.redis_answers


@asynccontextmanager
async def _desk() -> AsyncIterator[_Desk]:
    settings = load()
    configure(level="error", form="text")
    redis, waiting = redis_client(settings), redis_client(settings, waiting=True)
    scripts = Scripts(waiting, timeout=settings.redis_timeout)
    jobs, book = JobQueue(scripts), Book(redis, scripts)
    token_log = open_log(settings, waiting, scripts)
    try:
        async with opened(settings.sweep_login, settings.database_timeout) as engine:
            audit = AuditStore(engine, engine)
            content = content_with(engine, master_keys(settings))
            store, all_runs = RunStore(engine, content=content), AllRuns(engine, content)
            yield _Desk(at_terminal(), audit, store, all_runs, jobs, redis, token_log, book)
    finally:
        await scripts.aclose()
        await waiting.aclose()
        await redis.aclose()


def _first(since: str | None) -> str | None:
    """The first id that a run made since then can have. Raises InvalidField."""
    return first_id("run", max(0.0, time.time() - in_seconds(since, param="since"))) if since is not None else None


def _line(run: Run) -> str:
    attempts = f"{run.attempt}/{run.max_attempts}"
    words = [run.id, f"{run.status:9}", attempts, _at(run.created_at), run.tenant, run.user, run.feature, run.model]
    return plain("  ".join(words) + (f"  {_reason(run.error)}" if run.error else ""))


def _about(run: Run) -> Iterator[str]:
    model = f"{run.model} at {run.provider}/{run.provider_model}" if run.provider else run.model
    subject = f"{run.subject_type} {run.subject_id}" if run.subject_type else None
    fields = {
        "run": run.id,
        "status": run.status,
        "reason": _reason(run.error) if run.error else run.finish_reason,
        "tenant": run.tenant,
        "user": run.user,
        "feature": run.feature,
        "subject": subject,
        "model": model,
        "queue": run.queue,
        "priority": run.priority.name.lower(),
        "attempts": f"{run.attempt} of {run.max_attempts}",
        "usage": _tokens(run.usage),
        "guards": ", ".join(f"{finding['name']} ({finding['action']})" for finding in run.findings or ()),
        "created": _at(run.created_at),
        "started": _started(run),
        "first token": _at(run.first_token_at),
        "cancel asked": _at(run.cancel_requested_at),
        "finished": _at(run.finished_at),
    }
    return (plain(f"{name:13}{value}") for name, value in fields.items() if value)


def _about_attempt(attempt: AttemptRecord) -> str:
    call = attempt.generation
    took = f"{(attempt.ended_at - attempt.started_at).total_seconds():.1f} s" if attempt.ended_at else "so far"
    parts = [
        f"attempt {attempt.attempt}: {attempt.outcome}",
        f"{_at(attempt.started_at)}, {took}",
        attempt.worker,
        f"{call.provider}/{call.provider_model}" if call.provider else None,
        call.provider_request_id,
        _tokens(call.usage),
        _reason(attempt.error) if attempt.error else None,
    ]
    return plain("  ".join(part for part in parts if part))


def _content(run: Run) -> Iterator[str]:
    beside = {name: value for name, value in (("reasoning", run.reasoning), ("tool calls", run.tool_calls)) if value}
    for name, value in {"input": run.input, "output": run.output, **beside}.items():
        yield plain(f"{name:13}{json.dumps(value, ensure_ascii=False)}")


def _because(run: Run) -> str:
    return plain(f" ({run.error['code']})") if run.error else ""


def _reason(error: Mapping[str, str]) -> str:
    return f"{error['code']}: {error['message']}"


def _tokens(usage: Usage | None) -> str | None:
    if usage is None:
        return None
    about = "about " if usage.estimated else ""
    return f"{about}{usage.input_tokens} + {usage.output_tokens} tokens"


def _started(run: Run) -> str:
    """When, and after how long in the queue."""
    if run.started_at is None:
        return ""
    return f"{_at(run.started_at)}, after {(run.started_at - run.created_at).total_seconds():.1f} s"


def _at(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else ""
