"""What the doctor says of one part."""

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    OK = "ok"
    ADVICE = "advice"
    """Works, but not as well as it could."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """A line: `text` says what was found and, but for OK, what to do. No secret is ever in it."""

    mark: Mark
    part: str
    text: str

    def __str__(self) -> str:
        return f"{self.mark:<8} {self.part:<14} {' '.join(self.text.split())}"
