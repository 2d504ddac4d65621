"""What a storm came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tests.chaos.evidence import Evidence
from tests.chaos.oracle import Wrong

SHOWN = 20
COUNTED = ("lost", "gap", "repeat", "differs", "illegal", "twice", "billed", "counted", "left over", "logged")


@dataclass(frozen=True)
class Report:
    seed: int
    seconds: float
    drained_in: float
    unfinished: int
    wrongs: list[Wrong]
    faults: Counter[str]
    figures: dict[str, int]
    ends: Counter[str]
    outcomes: Counter[str]
    answers: Counter[str]

    @classmethod
    def of(
        cls,
        evidence: Evidence,
        wrongs: list[Wrong],
        *,
        seed: int,
        faults: Counter[str],
        unfinished: int,
        seconds: float,
        drained_in: float,
    ) -> Report:
        readings = [reading for told in evidence.told for reading in told.readings]
        figures = {
            "requests": len(evidence.told),
            "with an idempotency key": sum(told.ask.key is not None for told in evidence.told),
            "runs accepted": sum(len(told.run_ids) for told in evidence.told),
            "runs": len(evidence.runs),
            "attempts": len(evidence.attempts),
            "calls to the provider": evidence.calls_made,
            "cancels": sum(told.cancelled for told in evidence.told),
            "readers": len(readings),
            "restarts told to readers": sum(len(reading.restarts) for reading in readings),
            "characters read": sum(reading.said.characters for reading in readings),
        }
        return cls(
            seed=seed,
            seconds=seconds,
            drained_in=drained_in,
            unfinished=unfinished,
            wrongs=wrongs,
            faults=faults,
            figures=figures,
            outcomes=Counter(attempt["outcome"] for attempt in evidence.attempts),
            ends=Counter(_end(run) for run in evidence.runs),
            answers=sum((told.seen for told in evidence.told), Counter()),
        )

    @property
    def right(self) -> bool:
        return not self.wrongs and not self.unfinished

    def __str__(self) -> str:
        kinds = Counter(wrong.kind for wrong in self.wrongs)
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s, all ended {self.drained_in:.1f} s after the last client",
            *_counted("", self.figures),
            *_counted("ended ", self.ends),
            *_counted("attempts ", self.outcomes),
            *_counted("", self.answers),
            *_counted("fault: ", self.faults),
            f"  clients that were not done in time: {self.unfinished}",
            *(f"  {kind}: {kinds[kind]}" for kind in COUNTED),
            *(f"  WRONG {wrong.kind}: {wrong.what}" for wrong in self.wrongs[:SHOWN]),
        ]
        return "\n".join(lines)


def _end(run: dict[str, object]) -> str:
    error = run["error"]
    return f"{run['status']} {error['code']}" if isinstance(error, dict) else str(run["status"])


def _counted(prefix: str, counts: dict[str, int]) -> list[str]:
    return [f"  {prefix}{name}: {count:,}" for name, count in sorted(counts.items())]
