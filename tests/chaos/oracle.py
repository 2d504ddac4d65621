"""Holds the promises against the evidence. Nothing of the product is used here: what is legal is said anew."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import asyncpg
from tests.chaos.clients import ENDED, Told
from tests.chaos.evidence import Evidence, Key
from tests.chaos.models import said
from tests.viewer import TERMINAL, Said, Viewer

AT_ONCE = 0.7
"""Seconds: the product's half, and what a busy machine adds."""
DAY = 24 * 3600 * 1000
TRIED_AGAIN = {
    "worker_lost",
    "provider_unavailable",
    "provider_timeout",
    "provider_rate_limited",
    "provider_protocol_error",
}
"""The codes of failures after which there is another attempt, while attempts are left."""


@dataclass(frozen=True)
class Wrong:
    """`kind` is counted in the report: lost, illegal, gap, repeat, differs, twice, billed, counted, left over,
    logged."""

    kind: str
    what: str


def judge(evidence: Evidence) -> list[Wrong]:
    """All that is wrong; nothing, where every promise was kept."""
    by_ask: dict[int, list[asyncpg.Record]] = defaultdict(list)
    for run in evidence.runs:
        by_ask[run["ask"]].append(run)
    return [
        *(wrong for told in evidence.told for wrong in _asked(told, by_ask[told.ask.number])),
        *(wrong for run in evidence.runs for wrong in _ended_once(run)),
        *_billed(evidence),
        *_counted(evidence),
        *_left_over(evidence),
        *_logged(evidence),
    ]


# P1, P4: what was accepted is there, once, and was told the same to all.


def _asked(told: Told, runs: list[asyncpg.Record]) -> Iterator[Wrong]:
    ask, ids = told.ask, {run["id"] for run in runs}
    yield from (Wrong("illegal", f"{ask.model} {told.run_id}: {what}") for what in told.wrongs)
    for run_id in told.run_ids - ids:
        yield Wrong("lost", f"{run_id} was accepted and is not there")
    if ask.key is not None and (len(runs) != 1 or len(told.run_ids) != 1):
        yield Wrong("twice", f"one key: told {told.run_ids}, {len(runs)} runs")
    if ask.key is None and len(runs) > len(told.run_ids) + told.unanswered:
        yield Wrong("twice", f"{len(runs)} runs of a request that was sent once: {ids}")
    for run in runs:
        if run["id"] in told.run_ids:
            yield from _told_the_same(told, run)
        yield from _legal_end(told, run)


def _told_the_same(told: Told, run: asyncpg.Record) -> Iterator[Wrong]:
    if told.ends - {run["status"]}:
        yield Wrong("twice", f"{run['id']} was said to be {told.ends} and is {run['status']}")
    for reading in told.readings:
        yield from _read_whole(reading, run)


def _read_whole(reading: Viewer, run: asyncpg.Record) -> Iterator[Wrong]:
    """P2: put together, what a reader was told is what is stored."""
    kept, last = stored(run)
    where = f"{run['id']} ({run['status']} at attempt {run['attempt']})"
    if reading.end is None:
        yield Wrong("lost", f"{where}: a reader at {reading.cursor} never saw the end")
    elif (reading.attempt, list(reading.end)) != (run["attempt"], last):
        yield Wrong("differs", f"{where}: a reader was told the end {reading.end} of attempt {reading.attempt}")
    elif reading.said != kept:
        kind = "gap" if reading.said.characters < kept.characters else "repeat"
        yield Wrong(kind, f"{where}: a reader holds {reading.said.characters} characters of {kept.characters}")


def stored(run: asyncpg.Record) -> tuple[Said, list[object]]:
    """What a transcript says, and its last event."""
    events = run["transcript"] or [["", {}]]
    texts: dict[str, str] = defaultdict(str)
    calls: dict[int, list[str]] = {}
    for type_, data in events:
        if type_ == "run.tool_call":
            index = data["index"]
            if "arguments" in data:
                calls[index][2] += data["arguments"]
            else:
                calls[index] = [data["id"], data["name"], ""]
        elif "text" in data:
            texts[type_] += data["text"]
    in_order = tuple((calls[index][0], calls[index][1], calls[index][2]) for index in sorted(calls))
    return Said(texts["run.reasoning"], texts["run.delta"], in_order), events[-1]


def put_out(run: asyncpg.Record) -> Said:
    """What the row has beside its transcript."""
    calls = [(call["id"], call["function"]) for call in run["tool_calls"] or ()]
    called = tuple((call_id, function["name"], function["arguments"]) for call_id, function in calls)
    return Said(run["reasoning"] or "", run["output"] or "", called)


def _legal_end(told: Told, run: asyncpg.Record) -> Iterator[Wrong]:
    """P1, P3, P5, P6: it ended as this request can, and holds what the provider said and nothing else."""
    kind, whole, where = told.ask.kind, said(told.ask.model), f"{told.ask.model} {run['id']}"
    kept, _ = stored(run)
    if run["status"] == "completed" and (kept != whole or not kind.completes):
        yield Wrong("differs", f"{where} completed with {kept.characters} characters of {whole.characters}")
    if not kept.begins(whole):
        yield Wrong("differs", f"{where} holds what the provider did not say: {kept.ending}")
    if put_out(run) != kept:
        yield Wrong("differs", f"{where}: output and transcript are not the same")
    if run["status"] == "cancelled" and not told.cancelled:
        yield Wrong("differs", f"{where} was cancelled by nobody")
    if run["status"] == "failed":
        code, spent = run["error"]["code"], run["attempt"] >= run["max_attempts"]
        if not (code in TRIED_AGAIN and spent) and not (code == "provider_refused" and kind.refused):
            yield Wrong("differs", f"{where} failed with {run['error']} at attempt {run['attempt']}")


def _ended_once(run: asyncpg.Record) -> Iterator[Wrong]:
    if run["status"] not in ENDED or run["finished_at"] is None or run["worker"] is not None:
        yield Wrong("lost", f"{run['id']} is {run['status']}, attempt {run['attempt']}, worker {run['worker']}")
        return
    types = [type_ for type_, _ in run["transcript"] or ()]
    if [type_ for type_ in types if type_ in TERMINAL] != [f"run.{run['status']}"] or types[-1] not in TERMINAL:
        yield Wrong("twice", f"{run['id']} is {run['status']} and its transcript has {types}")


# Attempts: each has one row that is closed, and asks the provider once.


def _billed(evidence: Evidence) -> Iterator[Wrong]:
    if evidence.calls_made != len(evidence.calls):
        yield Wrong("billed", f"of {evidence.calls_made} calls only {len(evidence.calls)} are on record")
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for call in evidence.calls:
        calls[call["asked"]].append(call)
    attempts: dict[str, list[asyncpg.Record]] = defaultdict(list)
    for attempt in evidence.attempts:
        attempts[attempt["run_id"]].append(attempt)
    runs: dict[int, list[asyncpg.Record]] = defaultdict(list)
    for run in evidence.runs:
        runs[run["ask"]].append(run)
    for told in evidence.told:
        for run in runs[told.ask.number]:
            yield from _accounted(told, run, attempts[run["id"]])
        made = [attempt for run in runs[told.ask.number] for attempt in attempts[run["id"]]]
        yield from _called_once_each(told, made, calls.pop(told.ask.prompt, []))
    for prompt, unasked in calls.items():
        yield Wrong("billed", f"{len(unasked)} calls for {prompt!r}, which nobody asked")


def _accounted(told: Told, run: asyncpg.Record, attempts: list[asyncpg.Record]) -> Iterator[Wrong]:
    """An end that no worker wrote takes a number that has no row."""
    outcomes = [attempt["outcome"] for attempt in attempts]
    where = f"{run['id']} ({run['status']} at attempt {run['attempt']})"
    if not told.tried_again and [attempt["attempt"] for attempt in attempts] not in _numbered(run["attempt"]):
        yield Wrong("differs", f"{where} has the attempts {[attempt['attempt'] for attempt in attempts]}")
    if "running" in outcomes or any(attempt["ended_at"] is None for attempt in attempts):
        yield Wrong("left over", f"{where} has an attempt that goes on: {outcomes}")
    if attempts and attempts[-1]["attempt"] == run["attempt"] and outcomes[-1:] != [run["status"]]:
        yield Wrong("differs", f"{where} has attempts that ended otherwise: {outcomes}")
    if set(outcomes[:-1]) & ({"completed"} if told.tried_again else ENDED):
        yield Wrong("twice", f"{where} went on after an attempt that ended it: {outcomes}")


def _numbered(last: int) -> list[list[int]]:
    return [list(range(1, last + 1)), list(range(1, last))]


def _called_once_each(told: Told, attempts: list[asyncpg.Record], made: list[dict[str, Any]]) -> Iterator[Wrong]:
    """The call of an attempt that lapsed, or was cancelled, may arrive late: it is counted, not timed.

    A worker may have stood still, or the way to the provider.
    """
    where = f"{told.ask.model} {told.run_id}"
    calls = [call["began"] for call, after in zip_longest(made, made[1:]) if not _sent_again(call, after)]
    if len(calls) > len(attempts):
        yield Wrong("billed", f"{where}: {len(calls)} calls in {len(attempts)} attempts")
    if all(attempt["outcome"] not in {"lapsed", "cancelled"} for attempt in attempts):
        beginnings = sorted(attempt["began"] for attempt in attempts)
        in_each = Counter(bisect_right(beginnings, began) for began in calls)
        for number, count in in_each.items():
            if count > 1 and len(told.run_ids) == 1 and not told.unanswered:
                yield Wrong("billed", f"{where}: {count} calls in attempt {number}")


def _sent_again(call: dict[str, Any], after: dict[str, Any] | None) -> bool:
    """What goes out on a kept connection that is lost at once, unanswered, goes out once more on another."""
    if after is None or call["ending"] != "closed" or call["tokens"]:
        return False
    return call["ended"] - call["began"] < AT_ONCE and 0 <= after["began"] - call["ended"] < AT_ONCE


def _counted(evidence: Evidence) -> Iterator[Wrong]:
    """P8: once all has ended, what counts against a limit is what the ledger has, and nothing is reserved."""
    for number, counted in enumerate(evidence.counted, 1):
        if (counted.used, counted.reserved) != (evidence.spent, 0):
            yield Wrong("counted", f"by api {number}: {counted}, and the ledger has {evidence.spent}")


# What is left.


def _left_over(evidence: Evidence) -> Iterator[Wrong]:
    ended = {run["id"] for run in evidence.runs if run["status"] in ENDED}
    for key in evidence.keys:
        if (what := _orphan(key, ended)) is not None:
            yield Wrong("left over", f"in Redis: {key.name}: {what}")
    if evidence.provider["open_streams"]:
        yield Wrong("left over", f"{evidence.provider['open_streams']} calls are open at the provider")
    if evidence.streams:
        yield Wrong("left over", f"{evidence.streams} connections of clients that have gone")
    for name, alive in evidence.living.items():
        if not alive:
            yield Wrong("left over", f"{name} has ended by itself")


def _orphan(key: Key, ended: set[str]) -> str | None:
    if key.of_a_run:
        run_id = key.name.rpartition(":")[2]
        if run_id not in ended:
            return "the log of no run that ended"
        return None if 0 <= key.ttl <= DAY else f"a log that stays for {key.ttl} ms"
    if key.of_all_tenants or ((key.of_processes or key.of_limits) and key.ttl > 0):
        return None
    return f"stays for {key.ttl} ms"


# What the processes said.


TRACEBACK = 40
"""Lines that are told of one."""


def _logged(evidence: Evidence) -> Iterator[Wrong]:
    for name, output in evidence.outputs.items():
        for told in evidence.told[:1]:
            secret = told.ask.prompt.rpartition(" ")[0]
            if secret in output and not name.startswith("provider"):
                yield Wrong("logged", f"{name} has said a prompt")
        lines = output.splitlines()
        for number, line in enumerate(lines):
            if _is_broken(line):
                said = "\n".join(lines[number : number + TRACEBACK]) if line.startswith("Traceback") else line[:600]
                yield Wrong("logged", f"{name}: {said}")


def _is_broken(line: str) -> bool:
    if line.startswith("Traceback"):
        return True
    try:
        return json.loads(line)["level"] in {"error", "critical"}
    except (ValueError, KeyError, TypeError):
        return False
