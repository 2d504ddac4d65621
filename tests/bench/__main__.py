"""The benchmark's command: every system under every scenario in turn, then one table.

uv run python -m tests.bench [--quick] [--only runstream,direct] [--scenario s1,s100] [--rounds N] [--json FILE]
"""

import argparse
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import uvloop
from tests.bench import scenarios, systems
from tests.bench.load import ExchangeFailed
from tests.bench.measure import measure
from tests.bench.processes import Launcher, SystemFailed, free_port
from tests.bench.report import Results, as_json, table
from tests.bench.scenarios import IdleReaders, Scenario
from tests.bench.services import Services, services
from tests.bench.systems import Bench, System, Unavailable

ROUNDS = 3


def main() -> None:
    options = arguments().parse_args()
    chosen = [scenario for scenario in scenarios.FULL if scenario.name in options.scenario]
    if options.quick:
        chosen = [scenarios.shortened(scenario) for scenario in chosen]
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    results = Results(chosen, [system for system in systems.SYSTEMS if system.name in options.only], rounds)
    with tempfile.TemporaryDirectory(prefix="runstream-bench-") as folder:
        directory = Path(folder)
        directory.chmod(0o711)  # Postgres, which will not run as root, must be able to reach its data
        with services(directory) as shared:
            uvloop.run(run(results, shared, Launcher(directory)))
    print(table(results))
    if options.json:
        options.json.write_bytes(orjson.dumps(as_json(results), option=orjson.OPT_INDENT_2))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Runstream beside its peers.")
    parser.add_argument("--quick", action="store_true", help="shorter streams, one round")
    parser.add_argument("--only", type=names(systems.NAMES), default=systems.NAMES, help=", ".join(systems.NAMES))
    parser.add_argument(
        "--scenario", type=names(scenarios.NAMES), default=scenarios.NAMES, help=", ".join(scenarios.NAMES)
    )
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, with --quick 1")
    parser.add_argument("--json", type=Path, help="also write the figures of every round to this file")
    return parser


def names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(value: str) -> tuple[str, ...]:
        chosen = tuple(value.split(","))
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(known)}")
        return chosen

    return parse


async def run(results: Results, shared: Services, launcher: Launcher) -> None:
    """Fill in the results. The systems take turns within a scenario, and another begins in each round."""
    async with provider(launcher) as (port, process):
        bench = Bench(shared, launcher, port, process)
        ready = await prepared(results, bench)
        for turn in range(results.rounds):
            for scenario in results.scenarios:
                for system in ready:
                    await take(results, turn, scenario, system, bench)
            ready = [*ready[1:], *ready[:1]]


@asynccontextmanager
async def provider(launcher: Launcher) -> AsyncIterator[tuple[int, int]]:
    port = free_port()
    command = (sys.executable, "-m", "tests.bench.provider", str(port))
    async with launcher.running("provider", command, {}, port=port, cwd=systems.ROOT) as process:
        yield port, process.pid


async def prepared(results: Results, bench: Bench) -> list[System]:
    ready = []
    for system in results.systems:
        try:
            await system.prepare(bench)
            ready.append(system)
        except Unavailable as why:
            results.missing[system.title] = str(why)
            tell(f"{system.name} is not run: {why}: {why.__cause__ or ''}")
    return ready


async def take(results: Results, turn: int, scenario: Scenario, system: System, bench: Bench) -> None:
    if isinstance(scenario, IdleReaders) and not system.holds_readers:
        return
    where = f"round {turn + 1}, {scenario.name}, {system.name}"
    try:
        figures = await measure(system, scenario, bench)
    except (SystemFailed, ExchangeFailed, OSError, TimeoutError) as failure:
        results.failed.append(f"{where}: {type(failure).__name__}")  # a message may name this computer's paths
        tell(f"{where}: {type(failure).__name__} {failure}")
        return
    results.taken[scenario.name, system.name].append(figures)
    tell(f"{where}: " + ", ".join(f"{name} {value:.6g}" for name, value in figures.items()))


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
