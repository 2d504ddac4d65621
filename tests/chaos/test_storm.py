"""The short form of the storm: every fault at least once, and no promise broken."""

from __future__ import annotations

import pytest
from tests.chaos.storm import Storm

SEED = 20
RUNS = 300
RATE = 12


@pytest.mark.promise("P1", "P2", "P3", "P4", "P5", "P6")
async def test_every_promise_is_kept_in_a_storm_of_every_fault() -> None:
    report = await Storm(seed=SEED, runs=RUNS, rate=RATE, tell=print).run()
    print(report)
    assert report.right, str(report)
