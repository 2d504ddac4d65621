"""The command: all systems at once, taking turns at making calls, then one table.

uv run python -m tests.bench.gateway [--quick] [--only direct,gateway] [--json FILE]
"""

import argparse
import sys
import tempfile
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import orjson
import uvloop
from tests.bench.__main__ import names, provider, tell
from tests.bench.gateway import calls, systems
from tests.bench.gateway.report import Results, as_json, table
from tests.bench.processes import Launcher, SystemFailed
from tests.bench.services import Services, services
from tests.bench.systems import Bench, Running, System, Unavailable


def main() -> None:
    options = arguments().parse_args()
    chosen = [system for system in systems.SYSTEMS if system.name in options.only]
    results = Results(chosen, calls.QUICK if options.quick else calls.FULL)
    with tempfile.TemporaryDirectory(prefix="runstream-bench-") as folder, ExitStack() as stack:
        directory = Path(folder)
        directory.chmod(0o711)  # Postgres, which will not run as root, must be able to reach its data
        own = {}
        for system in chosen:
            place = directory / system.name
            place.mkdir(mode=0o711)
            own[system.name] = stack.enter_context(services(place))
        uvloop.run(run(results, own, Launcher(directory)))
    print(table(results))
    if options.json:
        options.json.write_bytes(orjson.dumps(as_json(results), option=orjson.OPT_INDENT_2))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway", description=sys.modules[__package__].__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    parser.add_argument("--only", type=names(systems.NAMES), default=systems.NAMES, help=", ".join(systems.NAMES))
    parser.add_argument("--json", type=Path, help="also write the figures of every block to this file")
    return parser


async def run(results: Results, own: dict[str, Services], launcher: Launcher) -> None:
    """Fill in the results. Each system has services of its own, so that theirs are told apart as well."""
    async with AsyncExitStack() as stack:
        port, process = await stack.enter_async_context(provider(launcher))
        running: dict[str, tuple[Running, Bench]] = {}
        for system in results.systems:
            bench = Bench(own[system.name], launcher, port, process)
            if started := await start(system, bench, stack, results):
                running[system.name] = started, bench
        await calls.measure(running, results.taken, results.memory, results.loads, tell)


async def start(system: System, bench: Bench, stack: AsyncExitStack, results: Results) -> Running | None:
    try:
        await system.prepare(bench)
        return await stack.enter_async_context(system.running(bench))
    except Unavailable as why:
        results.missing[system.title] = str(why)
        tell(f"{system.name} is not run: {why}: {why.__cause__ or ''}")
    except SystemFailed as failure:
        results.missing[system.title] = "it did not start"  # the failure may name this computer's paths
        tell(f"{system.name} is not run: {failure}")
    return None


if __name__ == "__main__":
    main()
