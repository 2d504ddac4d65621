"""The long form's command."""

import argparse
import random
import sys
from pathlib import Path

import uvloop
from tests.chaos.providers.storm import Storm

RATE = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.providers", description="Faults of providers.")
    parser.add_argument("--calls", type=int, default=2000, help="to providers, at the least")
    parser.add_argument("--seed", type=int, help="what is drawn from it is drawn again by the same one")
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second")
    parser.add_argument("--keep", type=Path, help="a directory to be made, in which what the processes say is left")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    storm = Storm(seed=seed, calls=options.calls, rate=options.rate, tell=tell, keep=options.keep)
    with storm.standing() as scene:
        report = uvloop.run(storm.run(scene))
    print(report)
    sys.exit(not report.right)


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
