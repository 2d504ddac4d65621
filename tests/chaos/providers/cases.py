"""What may become of a request: the targets of its model in order, and what each of them does with its calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from random import Random

from tests.chaos.providers.answers import tokens
from tests.chaos.providers.outcomes import OUTCOMES, Outcome

MAX_ATTEMPTS = 2
PROTOCOLS = ("openai", "anthropic", "openai-responses")
KEPT = "simulated-openai-responses-kept"

WELL = ("sim:8", "sim:30:80", "sim:0", "reasoning:5:8:80", "tools:6:3:80")
SIMULATED = {
    "answers": (*WELL, "slow-headers:300:8", "big:200000", "flaky:1:7"),
    "refuses": ("status:400", "status:403", "status:404", "status:413", "status:422"),
    "fails": (
        *("status:408", "status:500", "status:503:0", "status:529", "error:0", "error:9:80"),
        *("reasoning:9:9:80+error:5", "tools:9:2:80+error:8"),
    ),
    "is slow": (
        *("slow-headers:60000:1", "hang:0", "hang:9", "sim:5:0:60000"),
        *("reasoning:9:9+hang:4", "tools:9:2+hang:6"),
    ),
    "breaks off": (
        *("cut:0", "cut:9:80", "malformed:0", "malformed:9", "nofinish:0", "nofinish:9:80", "page"),
        *("reasoning:9:9:80+cut:5", "reasoning:9:9+nofinish:12", "tools:9:2:80+cut:8", "tools:9:2+malformed:16"),
    ),
}
IN_BACKGROUND = {
    "answers": (*WELL, "flaky:1:7"),
    "refuses": ("status:400",),
    "fails": ("status:500", "error:9:80"),
    "is slow": ("hang:0", "hang:9"),
}
FOREIGN = {
    "llmock": {
        "answers": ("reply", "calls"),
        "refuses": ("status:400", "status:404", "status:422"),
        "fails": ("status:500", "status:503"),
        "is slow": ("late", "stall"),
        "breaks off": ("disconnect", "truncate", "malformed"),
    },
    "aimock": {
        "answers": ("reply", "calls"),
        "refuses": ("status:400", "status:404"),
        "fails": ("status:500", "status:503", "drop", "vanish"),
        "is slow": ("late", "stall"),
        "breaks off": ("disconnect", "malformed"),
    },
}
SAID_BEFORE = {"llmock": {"stall", "disconnect", "truncate", "malformed"}, "aimock": {"disconnect"}}
"""Those of the faults that come after the first token."""
SENT_AGAIN = {"vanish"}
"""On a kept connection, what is lost at once and unanswered goes out once more on another."""
LIMITED, UNKNOWN, BAD = "-limited", "-unknown", "-bad"
"""Accounts of one key, which is rested: they are passed over while it is."""
MANY = "-many"
"""An account of several keys, of which one is good."""


@dataclass(frozen=True)
class Act:
    """What a target does. `account` is that of the provider's configuration; `does` is in the table of outcomes."""

    account: str
    script: str
    does: str
    kept_out: bool = False
    """Its calls do not get as far as the provider's record: its key is not taken, or nobody is there."""

    @property
    def server(self) -> str:
        return self.account.split("-")[0]

    @property
    def target(self) -> str:
        """In a route."""
        return f"{self.account}/{self.script}@*"

    def model(self, asked: str) -> str:
        return f"{self.script}@{asked}"

    @property
    def may_be_passed_over(self) -> bool:
        return self.account.endswith((LIMITED, UNKNOWN, BAD))

    def outcome(self, call: int) -> Outcome:
        """Of its so-manieth call for one run, from 0 on."""
        flaky = self.script.startswith("flaky") and call < int(self.script.split(":")[1])
        return OUTCOMES["fails" if flaky else self.does]

    def says_something(self, limit: int | None) -> bool:
        if self.kept_out:
            return False
        if self.server == "simulated":
            return bool(tokens(self.script, limit))
        return self.does == "answers" or self.script in SAID_BEFORE[self.server]


@dataclass(frozen=True)
class Made:
    """A call that is to be made: the `number`-th of its target's for the run, from 0 on."""

    act: Act
    number: int
    outcome: Outcome
    said: bool


@dataclass(frozen=True)
class Case:
    name: str
    acts: tuple[Act, ...]
    limit: int | None = None
    """`max_output_tokens`."""

    @cached_property
    def attempts(self) -> list[list[Made]]:
        """The calls of each attempt, as the table of outcomes has it, where none is passed over."""
        attempts: list[list[Made]] = []
        made = dict.fromkeys(self.acts, 0)
        while len(attempts) < MAX_ATTEMPTS:
            attempts.append([])
            for act in self.acts:
                outcome = act.outcome(made[act])
                said = act.says_something(self.limit) and (outcome.code is None or outcome is OUTCOMES[act.does])
                attempts[-1].append(Made(act, made[act], outcome, said))
                made[act] += 1
                if said or outcome.code is None:
                    break
            if not attempts[-1][-1].outcome.tried_again:
                break
        return attempts

    @property
    def last(self) -> Made:
        return self.attempts[-1][-1]

    @property
    def calls(self) -> int:
        """Those that get as far as a provider's record, whatever is passed over."""
        made = [made.act for attempt in self.attempts for made in attempt]
        return sum(not act.kept_out and (act is self.acts[-1] or not act.may_be_passed_over) for act in made)


def cases(*, with_aimock: bool) -> list[Case]:
    """All that there are, each with a name of its own."""
    servers = ["llmock", "aimock"] if with_aimock else ["llmock"]
    single = [(act,) for act in _acts(servers)]
    by_name = [Case(f"case{number}", acts) for number, acts in enumerate([*single, *_fallbacks(servers)])]
    for protocol in PROTOCOLS:
        for script, limit in (("tools:9:2:80", 6), ("reasoning:9:9:80", 4), ("sim:30", 9)):
            act = Act(f"simulated-{protocol}", script, "answers")
            by_name.append(Case(f"case{len(by_name)}", (act,), limit))
    return by_name


def _acts(servers: list[str]) -> Iterator[Act]:
    for protocol in PROTOCOLS:
        yield from _each(f"simulated-{protocol}", SIMULATED)
        yield from (Act(f"simulated-{protocol}{LIMITED}", f"status:429{wait}", "limits") for wait in ("", ":0"))
        yield Act(f"simulated-{protocol}{UNKNOWN}", "status:401", "refuses")
        yield Act(f"simulated-{protocol}{BAD}", "sim:9", "refuses", kept_out=True)
        yield Act(f"simulated-{protocol}{MANY}", "sim:9:80", "answers")
        yield Act(f"away-{protocol}", "sim:9", "fails", kept_out=True)
        for server in servers:
            yield from _each(f"{server}-{protocol}", FOREIGN[server])
            yield Act(f"{server}-{protocol}{LIMITED}", "status:429", "limits")
    yield Act("simulated-openai", "uncounted:9", "answers")
    yield from _each(KEPT, IN_BACKGROUND)


def _each(account: str, scripts: dict[str, tuple[str, ...]]) -> Iterator[Act]:
    yield from (Act(account, script, does) for does, each in scripts.items() for script in each)


def _fallbacks(servers: list[str]) -> Iterator[tuple[Act, ...]]:
    """Each act that is not an answer from its first call on comes before another target, or two."""
    well = cycle([act for act in _acts(servers) if act.does == "answers" and act.script in {*WELL[:2], "reply"}])
    failing = [act for act in _acts(servers) if act.does != "answers"]
    for number, act in enumerate(failing):
        if number % 2:
            yield act, next(well)
        else:
            other = failing[(number * 7 + 3) % len(failing)]
            if other.account != act.account:
                yield act, other, next(well)
                if not other.may_be_passed_over:
                    yield act, other


def draw(random: Random, all_cases: list[Case], calls: int) -> list[Case]:
    """Each case at least once where there is room, and as many of those that answer at once; so many calls in all."""
    well = [case for case in all_cases if case.calls == 1 and case.last.outcome.code is None]
    drawn: list[Case] = []
    left = random.sample(all_cases, len(all_cases))
    while calls > 0:
        if not left:
            left = random.sample(all_cases, len(all_cases))
        for case in (left.pop(), random.choice(well)):
            drawn.append(case)
            calls -= case.calls
    random.shuffle(drawn)
    return drawn
