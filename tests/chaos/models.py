"""What is asked of the simulated provider, and what may become of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from runstream.providers.simulated import unicode_token, word

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


KINDS = {
    "words": Kind(40, _paced("sim")),
    "unicode": Kind(30, _paced("unicode")),
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
def said(model: str) -> str:
    """All that the provider says to this model's name."""
    kind, *arguments = model.split(":")
    if kind == "status":
        return ""
    if kind == "big":
        return "x" * int(arguments[0])
    count = int(arguments[1] if kind in {"slow-headers", "flaky"} else arguments[0])
    return "".join(map(unicode_token if kind == "unicode" else word, range(count)))
