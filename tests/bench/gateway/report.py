"""The gateway's figures as one Markdown table, and as JSON."""

import os
import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.bench.gateway.calls import TOKENS, Calls, Taken
from tests.bench.measure import Figures
from tests.bench.report import number, row
from tests.bench.systems import System

WITHOUT, WITH = "off", "on"


@dataclass
class Results:
    """Every block's figures, in order; `memory` is in MB, before all of them and after."""

    systems: Sequence[System]
    loads: tuple[Calls, ...]
    missing: dict[str, str] = field(default_factory=dict)
    taken: Taken = field(default_factory=lambda: defaultdict(list))
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)

    def median(self, load: str, system: str, of: Callable[[Figures], float]) -> float:
        return median(of(figures) for figures in self.taken[load, system])

    def added(self, load: str, system: str, to: str, figure: str) -> float:
        """The median of what it is more than in the other system's block of the same turn."""
        pairs = zip(self.taken[load, system], self.taken[load, to], strict=True)
        return median(one[figure] - other[figure] for one, other in pairs)

    @property
    def calls(self) -> int:
        return sum(load.blocks * load.calls for load in self.loads)


def table(results: Results) -> str:
    systems = [system for system in results.systems if system.name in results.memory]
    lines = [row(["", *(system.title for system in systems)]), row(["---"] * (len(systems) + 1))]
    for load in results.loads:
        lines += [row([title, *(cell(system.name) for system in systems)]) for title, cell in rows(results, load)]
    lines.append(
        row([f"RSS, MB, before / after {results.calls:,} calls", *(memory(results, system) for system in systems)])
    )
    lines.append(row(["complete", *(complete(results, system) for system in systems)]))
    notes = [f"{name} was not run: {why}" for name, why in results.missing.items()]
    return "\n".join([*lines, "", *gateway(results), conditions(results), *notes])


def rows(results: Results, load: Calls) -> list[tuple[str, Callable[[str], str]]]:
    def of(figure: str, per: int = 1) -> Callable[[str], str]:
        return lambda system: number(results.median(load.name, system, lambda figures: figures[figure] / per))

    def added(system: str) -> str:
        return number(results.added(load.name, system, "direct", "call_ms"))

    return [
        (f"first token p50, {load.title}, ms", of("first_token_ms")),
        (f"whole call p50, {load.title}, ms", of("call_ms")),
        *([("and more than the provider alone", added)] if ("direct" in results.memory) else []),
        (f"calls/s, {load.title}", of("calls_per_s")),
        (f"CPU us per call, {load.title}", of("cpu_us")),
        (f"CPU us per token, {load.title}", of("cpu_us", TOKENS)),
        ("and per call in Postgres and Redis", of("services_cpu_us")),
    ]


def memory(results: Results, system: System) -> str:
    return " / ".join(number(value) for value in results.memory[system.name])


def complete(results: Results, system: System) -> str:
    blocks = [figures for load in results.loads for figures in results.taken[load.name, system.name]]
    return f"{sum(block['complete'] for block in blocks):,.0f} of {sum(block['calls'] for block in blocks):,.0f}"


def gateway(results: Results) -> list[str]:
    """What it costs by itself: on less off, block by block."""
    if not {WITHOUT, WITH} <= results.memory.keys():
        return []
    lines = []
    for load in results.loads:
        first, call, cpu, services = (
            results.added(load.name, WITH, WITHOUT, figure)
            for figure in ("first_token_ms", "call_ms", "cpu_us", "services_cpu_us")
        )
        lines.append(
            f"The gateway itself, {load.title}: {first:+.2f} ms to the first token, {call:+.2f} ms to the end, "
            f"{cpu:+.0f} us of CPU per call, and {services:+.0f} us in Postgres and Redis."
        )
    return lines


def conditions(results: Results) -> str:
    blocks = [figures for taken in results.taken.values() for figures in taken]
    others = median(block["others_cpu_percent"] for block in blocks)
    turns = " and ".join(str(load.blocks) for load in results.loads)
    return (
        f"Medians of {turns} blocks, in which the systems take turns, "
        f"on {os.cpu_count()} CPUs that load client and provider share; {TOKENS} tokens a call, unpaced; CPU is the "
        f"system's own processes; fsync on; Python {platform.python_version()}; programs that have nothing to do with "
        f"it used {others:.0f} % of the CPUs meanwhile."
    )


def as_json(results: Results) -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "missing": results.missing,
        "memory_mb": results.memory,
        "blocks": [
            {"load": load, "system": system, "figures": figures} for (load, system), figures in results.taken.items()
        ],
    }
