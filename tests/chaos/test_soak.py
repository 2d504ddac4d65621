"""The short form of the soak."""

from __future__ import annotations

from tests.chaos.soak import Soak

ALLOWED = 0.05
"""Less than the long form's: in so short a time even a leak of all that a run says is small."""


async def test_memory_stays_flat_while_fifty_streams_are_created_read_and_cancelled() -> None:
    soaked = await Soak(seed=1, seconds=40, streams=50, tell=print).run()
    assert soaked.flat(ALLOWED), str(soaked)
