"""The short form: some hundreds of requests of all kinds."""

from __future__ import annotations

import pytest
from tests.fuzz.fuzz import SETTINGS, Fuzz

SEED = 7
REQUESTS = 1000


@pytest.mark.promise("P7")
async def test_no_request_breaks_the_api_or_is_shown_what_is_another_s(make_stack) -> None:
    stack = make_stack(apis=2, workers=1, **SETTINGS)
    report = await Fuzz(stack, seed=SEED, requests=REQUESTS, tell=print).run()
    print(report)
    assert report.right, str(report)
    assert report.requests == REQUESTS
