"""The long form's command."""

import argparse
import random
import sys

import uvloop
from tests.chaos.stage import working_directory
from tests.fuzz.fuzz import SETTINGS, Fuzz
from tests.stack import Stack

from runstream.embedded import Postgres
from runstream.storage.migrate import upgrade


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Requests of all kinds.")
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seed", type=int, help="what is drawn from it is drawn again by the same one")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    with working_directory(None) as directory, Postgres(directory / "postgres", durable=False) as postgres:
        upgrade(postgres.url)
        stack = Stack(directory, database_url=postgres.url, environment=SETTINGS)
        try:
            stack.start(apis=2, workers=1)
            report = uvloop.run(Fuzz(stack, seed=seed, requests=options.requests, tell=tell).run())
        finally:
            stack.end()
    print(report)
    sys.exit(not report.right)


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
