"""Holds what is left of the storm against the table of outcomes. What is right is said anew: nothing of the product is
used here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from tests.chaos.oracle import Wrong, put_out, stored
from tests.chaos.providers import answers
from tests.chaos.providers.cases import SENT_AGAIN, Act, Made
from tests.chaos.providers.clients import Told
from tests.chaos.providers.evidence import Evidence, Row
from tests.chaos.providers.scene import foreign_arguments, foreign_text
from tests.viewer import Said

CHARACTERS_A_TOKEN = 4
SCRIPTED_INPUT = 7
"""Tokens that aimock is told to report of a prompt."""
Owed = tuple[int | None, int | None, bool]
"""Input and output tokens, None where nobody can say, and whether they are estimated."""


def judge(evidence: Evidence) -> list[Wrong]:
    """All that is wrong; nothing, where each run ended as the table says and each call is accounted for."""
    wrongs = [wrong for told in evidence.told for wrong in _judge(told, evidence)]
    return [*wrongs, *_together(evidence)]


def _judge(told: Told, evidence: Evidence) -> Iterator[Wrong]:
    where = f"{[f'{act.account}/{act.script}' for act in told.case.acts]} {told.run_id}"
    if told.wrong or told.run_id not in evidence.runs:
        yield Wrong("lost", f"{where} {told.wrong}")
        return
    run, calls = evidence.runs[told.run_id], Calls(told, evidence)
    for kind, what in (*_ended(told, run, evidence), *calls.wrongs(), *_said(told, run, calls), *_paid(run, calls)):
        yield Wrong(kind, f"{where}: {what}")


def _ended(told: Told, run: Row, evidence: Evidence) -> Iterator[tuple[str, str]]:
    """As the table of outcomes has it, and each of its attempts."""
    codes = [attempt[-1].outcome.code for attempt in told.case.attempts]
    status = "failed" if codes[-1] else "completed"
    if (run["status"], _code(run["error"]), run["attempt"]) != (status, codes[-1], len(codes)):
        yield "ended", f"{run['status']} {run['error']} at attempt {run['attempt']}, and not {status} {codes}"
    attempts = [(each["outcome"], _code(each["error"])) for each in evidence.attempts[run["id"]]]
    if attempts != [*(("retried", code) for code in codes[:-1]), (status, codes[-1])]:
        yield "ended", f"its attempts are {attempts}, and not {codes}"
    end = told.reading.end
    if end is None or end[0] != f"run.{status}" or told.reading.attempt != len(codes):
        yield "read", f"its reader was told {end} of attempt {told.reading.attempt}"


def _code(error: dict[str, Any] | None) -> str | None:
    return error["code"] if error else None


class Calls:
    """The calls of one run: the ledger's lines beside what was to be called and what the provider has on record."""

    def __init__(self, told: Told, evidence: Evidence) -> None:
        self.told = told
        self.evidence = evidence
        self.lines = evidence.ledger.get(told.run_id, [])
        self._of_attempts = {number: list(lines) for number, lines in groupby(self.lines, lambda line: line["attempt"])}
        self.made = [
            list(zip(self._to_be_made(number), self._of_attempts.get(number, []), strict=False))
            for number in range(1, len(told.case.attempts) + 1)
        ]
        """Of each attempt, those that have a line."""

    def wrongs(self) -> Iterator[tuple[str, str]]:
        """Each call of the providers' records has one line, and each line one call."""
        if list(self._of_attempts) != list(range(1, len(self.made) + 1)):
            yield "unaccounted", f"the ledger has lines of the attempts {list(self._of_attempts)}"
        for number in range(1, len(self.made) + 1):
            there = self._called(number)
            if there != [self._target(made.act) for made in self._to_be_made(number)]:
                yield "unaccounted", f"attempt {number} called {there}"
        for act in {act for act in self.told.case.acts if not act.kept_out}:
            count = sum(line["provider_model"] == act.model(self.told.model) for line in self.lines)
            most = 2 * count if act.script in SENT_AGAIN else count
            if not count <= (on_record := self._on_record(act)) <= most:
                yield "unaccounted", f"{on_record} calls on record of {act.script} at {act.account}, {count} lines"

    def _to_be_made(self, attempt: int) -> list[Made]:
        """A target that may be passed over is to be called where it was."""
        called = self._called(attempt)
        planned = self.told.case.attempts[attempt - 1]
        return [made for made in planned if self._target(made.act) in called or not made.act.may_be_passed_over]

    def _called(self, attempt: int) -> list[tuple[str, str]]:
        return [(line["provider"], line["provider_model"]) for line in self._of_attempts.get(attempt, [])]

    def _target(self, act: Act) -> tuple[str, str]:
        return act.account, act.model(self.told.model)

    def _on_record(self, act: Act) -> int:
        model = act.model(self.told.model)
        return len(self.evidence.calls.get(model, [])) if act.server == "simulated" else self.evidence.requests[model]

    def record(self, made: Made) -> dict[str, Any] | None:
        """What the simulated provider noted of it."""
        calls = self.evidence.calls.get(made.act.model(self.told.model), [])
        return calls[made.number] if made.act.server == "simulated" and made.number < len(calls) else None

    def said(self, made: Made) -> Said:
        """All that this call's answer says; of one that other people's servers break, what it would have said."""
        if not made.said:
            return Said()
        if record := self.record(made):
            return answers.said(made.act.script, record["number"], self.told.case.limit)
        model = self.told.model
        text, arguments = foreign_text(model, made.number), foreign_arguments(model, made.number)
        if made.act.script == "calls":
            return Said("", text, (("", "look", json.dumps(arguments)),))
        return Said("", text)


def _said(told: Told, run: Row, calls: Calls) -> Iterator[tuple[str, str]]:
    """What is kept and what was read is the answer of one call: the attempt's last one.

    Of an attempt that is void a reader that lags behind is told a beginning, or nothing: its log has gone.
    """
    kept, _ = stored(run)
    if put_out(run) != kept:
        yield "mixture", "output and transcript are not the same"
    if told.reading.said != kept:
        yield "read", f"its reader holds {told.reading.said.ending!r} of {kept.ending!r}"
    for number, made in enumerate(calls.made, 1):
        last = number == len(told.case.attempts)
        heard = kept if last else told.reading.void.get(number)
        if heard and made and not _is(heard, calls.said(made[-1][0]), made[-1][0], whole=last):
            yield "mixture", f"attempt {number} says {heard.ending!r}, not {calls.said(made[-1][0]).ending!r}"


def _is(heard: Said, said: Said, made: Made, *, whole: bool) -> bool:
    heard = Said(heard.reasoning, heard.text, tuple(_known(call, made) for call in heard.calls))
    said = Said(said.reasoning, said.text, tuple(_known(call, made) for call in said.calls))
    if not whole:
        return heard.begins(said)
    if made.act.server != "simulated" and made.outcome.code is not None:
        return heard.begins(said) and (heard != said if made.said else heard == Said())
    return heard == said


def _known(call: tuple[str, str, str], made: Made) -> tuple[str, str, str]:
    """Other people's servers give calls what ids they like, and write JSON as they do."""
    if made.act.server == "simulated":
        return call
    return "", call[1], json.dumps(json.loads(call[2]))


def _paid(run: Row, calls: Calls) -> Iterator[tuple[str, str]]:
    """What the provider reported, to the token; else the estimate; nothing, where nothing was bought."""
    for number, attempt in enumerate(calls.made, 1):
        for made, line in attempt:
            last = number == len(calls.made) and made is attempt[-1][0]
            heard = stored(run)[0] if last else None
            paid = line["input_tokens"], line["output_tokens"], line["estimated"]
            owed = _owed(calls, made, heard)
            if any(one not in (None, other) for one, other in zip(owed, paid, strict=True)):
                yield "metered", f"attempt {number}: {made.act.script} is paid as {paid}, and not {owed}"
    costs = [line["cost"] for line in calls.lines if line["cost"] is not None]
    if run["cost"] != (sum(costs) if costs else None):
        yield "metered", f"it costs {run['cost']}, and its lines {costs}"


def _owed(calls: Calls, made: Made, heard: Said | None) -> Owed:
    """As a line of the ledger is to have it."""
    prompt = -(-len("user" + calls.told.prompt) // CHARACTERS_A_TOKEN)
    if made.outcome.code is None and not made.act.script.startswith("uncounted"):
        return _reported(calls, made)
    if not made.said:
        return (prompt, 0, True) if made.outcome.prompt_charged else (0, 0, False)
    if record := calls.record(made):
        heard = answers.said(made.act.script, record["number"], calls.told.case.limit)
    return prompt, None if heard is None else -(-_length(heard) // CHARACTERS_A_TOKEN), True


def _length(said: Said) -> int:
    """Of a tool call its arguments, and one for its name."""
    return len(said.reasoning) + len(said.text) + sum(1 + len(arguments) for _, _, arguments in said.calls)


def _reported(calls: Calls, made: Made) -> Owed:
    if record := calls.record(made):
        return record["input_tokens"], record["tokens"], False
    text = foreign_text(calls.told.model, made.number)
    if made.act.server == "aimock":
        return SCRIPTED_INPUT, len(text), False
    return None, len(text) // CHARACTERS_A_TOKEN if made.act.script == "reply" else None, False


def _together(evidence: Evidence) -> Iterator[Wrong]:
    """The ledger, what the API tells of it, the limits' counters, and what the simulated provider counted."""
    known = {told.run_id for told in evidence.told}
    for run_id in evidence.ledger.keys() - known:
        yield Wrong("unaccounted", f"lines of {run_id}, which nobody asked for")
    models = {act.model(told.model) for told in evidence.told for act in told.case.acts}
    for model in (evidence.calls.keys() | evidence.requests.keys()) - models:
        yield Wrong("unaccounted", f"calls of {model}, which nobody asked for")
    sums, usage = evidence.sums, evidence.usage
    told = usage["calls"], usage["input_tokens"], usage["output_tokens"], float(usage["cost"])
    if told != (sums["calls"], sums["input"], sums["output"], float(sums["cost"])):
        yield Wrong("summed", f"usage is told as {told}, and is {dict(sums)}")
    tokens, cost = (evidence.limits[f"tenant.{name}_per_day"] for name in ("tokens", "cost"))
    if (tokens["used"], tokens["reserved"]) != (sums["input"] + sums["output"], 0):
        yield Wrong("summed", f"of tokens are counted {tokens}, and spent {dict(sums)}")
    if (float(cost["used"]), float(cost["reserved"])) != (float(sums["cost"]), 0):
        yield Wrong("summed", f"of cost is counted {cost}, and spent {dict(sums)}")
    if evidence.stats.get("open_streams") != 0:
        yield Wrong("left over", f"calls are open at the provider: {evidence.stats}")
    for name, output in evidence.outputs.items():
        for line in output.splitlines():
            if '"level": "error"' in line or line.startswith("Traceback"):
                yield Wrong("logged", f"{name}: {line[:600]}")
