"""The figures as one Markdown table, and as JSON. Neither names a path, a host or a user."""

import math
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.bench.measure import Figures
from tests.bench.scenarios import Scenario
from tests.bench.systems import System

Cell = Callable[[Figures], str]


@dataclass
class Results:
    """Every measurement taken, in order; `missing` says why a system was not run."""

    scenarios: Sequence[Scenario]
    systems: Sequence[System]
    rounds: int
    missing: dict[str, str] = field(default_factory=dict)
    taken: dict[tuple[str, str], list[Figures]] = field(default_factory=lambda: defaultdict(list))
    failed: list[str] = field(default_factory=list)

    def medians(self, scenario: str, system: str) -> Figures | None:
        """Each figure's median over the rounds, on its own."""
        rounds = self.taken.get((scenario, system))
        return {name: median(taken[name] for taken in rounds) for name in rounds[0]} if rounds else None


def number(value: float) -> str:
    """As many digits as the noise allows: two below ten, none from a hundred up."""
    if math.isnan(value):
        return "-"
    if value >= 10_000:
        return f"{value / 1000:,.0f}k"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def one(name: str) -> Cell:
    return lambda figures: number(figures[name])


def pair(first: str, second: str) -> Cell:
    return lambda figures: f"{number(figures[first])} / {number(figures[second])}"


def complete(figures: Figures) -> str:
    return f"{figures['complete']:.0f} of {figures['streams']:.0f}"


FIRST = pair("first_token_p50_ms", "first_token_p99_ms")
AGE = pair("token_age_p50_ms", "token_age_p99_ms")
CPU = one("cpu_us_per_token")
SERVICES_CPU = one("services_cpu_us_per_token")

ROWS: tuple[tuple[str, str, Cell], ...] = (
    ("first token p50 / p99, 1 stream, ms", "s1", FIRST),
    ("first token p50 / p99, 10 streams, ms", "s10", FIRST),
    ("first token p50 / p99, 100 streams x 50/s, ms", "s100", FIRST),
    ("first token p50 / p99, 300 streams x 50/s, ms", "s300", FIRST),
    ("token age p50 / p99, 100 streams, ms", "s100", AGE),
    ("token age p50 / p99, 300 streams, ms", "s300", AGE),
    ("CPU us per token, 10 streams", "s10", CPU),
    ("CPU us per token, 100 streams", "s100", CPU),
    ("CPU us per token, 300 streams", "s300", CPU),
    ("and in Postgres and Redis, 100 streams", "s100", SERVICES_CPU),
    ("tokens/s, 50 streams x 2,000 unpaced", "unpaced", one("tokens_per_s")),
    ("RSS, MB, after 300 streams", "s300", one("rss_mb")),
    ("RSS per idle reader, 500 readers, KB", "idle", one("reader_kb")),
    ("complete, 300 streams", "s300", complete),
    ("complete, unpaced", "unpaced", complete),
)


def table(results: Results) -> str:
    head = ["", *(system.title for system in results.systems)]
    lines = [row(head), row(["---"] * len(head))]
    names = {scenario.name for scenario in results.scenarios}
    for title, scenario, cell in ROWS:
        if scenario in names:
            lines.append(row([title, *(filled(results, scenario, system, cell) for system in results.systems)]))
    notes = [f"{name} was not run: {why}" for name, why in results.missing.items()]
    return "\n".join([*lines, "", conditions(results), *notes, *results.failed])


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def filled(results: Results, scenario: str, system: System, cell: Cell) -> str:
    figures = results.medians(scenario, system.name)
    return cell(figures) if figures else "-"


def conditions(results: Results) -> str:
    rounds = "1 round" if results.rounds == 1 else f"medians of {results.rounds} rounds"
    return (
        f"{rounds} on {os.cpu_count()} CPUs that load client, provider, Postgres and Redis share; "
        f"CPU is the system's own processes; fsync on; Python {platform.python_version()}; "
        f"programs that have nothing to do with it used {others(results):.0f} % of the CPUs meanwhile."
    )


def others(results: Results) -> float:
    """The median over all measurements; above a few percent, the figures are not to be trusted."""
    name = "others_cpu_percent"
    return median([figures[name] for taken in results.taken.values() for figures in taken if name in figures] or [0.0])


def as_json(results: Results) -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "rounds": results.rounds,
        "missing": results.missing,
        "failed": results.failed,
        "results": [
            {
                "scenario": scenario.name,
                "title": scenario.title,
                "model": scenario.model,
                "system": system.name,
                "medians": results.medians(scenario.name, system.name),
                "rounds": results.taken.get((scenario.name, system.name), []),
            }
            for scenario in results.scenarios
            for system in results.systems
        ],
    }
