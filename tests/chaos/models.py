"""What is asked of the simulated provider, and what may become of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from tests.viewer import Said

from runstream.providers.simulated import CALLED, call_id, unicode_token, word

BIG = 1_500_000
FLOOD = 100_000


@dataclass(frozen=True)
class Kind:
    """`weight` is how often it is asked for; `completes` is whether an attempt that is left alone does."""

    weight: float
    draw: Callable[[Random], str]
    completes: bool = True
    refused: bool = False
    """Trying again does not help, and is not done."""


def _paced(name: str, *, at_most: int = 60) -> Callable[[Random], str]:
    return lambda random: f"{name}:{random.randint(1, at_most)}:{random.choice((0, 20, 40, 80))}"


def _paced_after(name: str) -> Callable[[Random], str]:
    """So many tokens of another kind, and so many of text."""
    return lambda random: _paced(f"{name}:{random.randint(1, 20)}", at_most=30)(random)


KINDS = {
    "words": Kind(40, _paced("sim")),
    "unicode": Kind(30, _paced("unicode")),
    "reasoning": Kind(8, _paced_after("reasoning")),
    "tool calls": Kind(8, _paced_after("tools")),
    "slow to begin": Kind(3, lambda random: f"slow-headers:{random.randint(100, 1500)}:20:40"),
    "refused once": Kind(3, _paced("flaky:1")),
    "refused twice": Kind(1, _paced("flaky:2")),
    "large token": Kind(0.2, lambda _: f"big:{BIG}"),
    "flood of tokens": Kind(0.2, lambda _: f"sim:{FLOOD}"),
    "cut": Kind(3, _paced("cut"), completes=False),
    "error inside": Kind(2, _paced("error"), completes=False),
    "malformed chunk": Kind(2, _paced("malformed"), completes=False),
    "no finish reason": Kind(2, _paced("nofinish"), completes=False),
    "silence": Kind(1, _paced("hang", at_most=20), completes=False),
    "no answer": Kind(0.5, lambda _: "slow-headers:60000:1", completes=False),
    "status 429": Kind(1, lambda _: "status:429", completes=False),
    "status 500": Kind(1, lambda _: "status:500", completes=False),
    "status 503": Kind(1, lambda _: "status:503", completes=False),
    "status 400": Kind(1, lambda _: "status:400", completes=False, refused=True),
}


def draw_kinds(random: Random, count: int) -> Iterator[str]:
    """Each kind at least once where there is room, then by weight, in any order."""
    names = list(KINDS)
    drawn = names + random.choices(names, [kind.weight for kind in KINDS.values()], k=max(0, count - len(names)))
    random.shuffle(drawn)
    yield from drawn[:count]


@lru_cache(maxsize=1000)
def said(model: str) -> Said:
    """All that the provider says to this model's name."""
    kind, *arguments = model.split(":")
    if kind == "status":
        return Said()
    if kind == "big":
        return Said(text="x" * int(arguments[0]))
    if kind == "reasoning":
        thoughts, count = map(int, arguments[:2])
        return Said("".join(f"r{number} " for number in range(thoughts)), _words(count))
    if kind == "tools":
        words, count = map(int, arguments[:2])
        asked = json.dumps({"text": _words(words)}, separators=(",", ":"))
        return Said("", _words(count), tuple((call_id(number), name, asked) for number, name in enumerate(CALLED)))
    count = int(arguments[1] if kind in {"slow-headers", "flaky"} else arguments[0])
    return Said(text="".join(map(unicode_token, range(count))) if kind == "unicode" else _words(count))


def _words(count: int) -> str:
    return "".join(map(word, range(count)))
