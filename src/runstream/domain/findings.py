"""What a guard found in a run's input or output. It never holds what was found itself: that may be a secret."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

MOST_MESSAGES = 20
"""Places that a finding names; one that is in more messages is told of the first of them."""


class Action(StrEnum):
    """What was done about it."""

    NORMALIZE = "normalize"
    """The text was written otherwise, and means the same."""
    FLAG = "flag"
    """Nothing but saying so."""
    STRIP = "strip"
    """It was taken out of what the provider was asked."""
    REFUSE = "refuse"
    """The run failed for it."""


class Where(StrEnum):
    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is that of a rule, or of a category of moderation; `messages` count from 0, of the input."""

    name: str
    action: Action
    where: Where
    messages: tuple[int, ...] = ()


def flagged(findings: Iterable[Finding]) -> bool:
    """Whether anything was found that says something of the content."""
    return any(finding.action is not Action.NORMALIZE for finding in findings)


def refusing(findings: Iterable[Finding]) -> list[str]:
    """The names of what a run is to fail for."""
    return sorted({finding.name for finding in findings if finding.action is Action.REFUSE})


def told(findings: Iterable[Finding]) -> list[dict[str, Any]] | None:
    """In JSON, as the run keeps them; None where there are none."""
    return [asdict(finding) for finding in findings] or None
