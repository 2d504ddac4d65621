"""Failed authentications are slowed by client address, in bounded memory."""

import asyncio

import pytest

from clock import Clock
from runstream.access import failures as module
from runstream.access.failures import Failures
from runstream.domain.errors import TooManyRequests

ALLOWED = 3
HOURS = 3600.0
DEADLINE = 10


@pytest.fixture
def failures(clock: Clock) -> Failures:
    """Holds an answer back for longer than any test."""
    return Failures(ALLOWED, clock=clock, pause=HOURS)


async def held_back(failures: Failures, address: str) -> bool:
    noting = asyncio.create_task(failures.note(address))
    await asyncio.sleep(0)
    if noting.done():
        await noting
        return False
    noting.cancel()
    return True


async def fail(failures: Failures, address: str, times: int) -> None:
    async with asyncio.timeout(DEADLINE):
        for _ in range(times):
            await failures.note(address)


async def test_after_as_many_as_are_allowed_further_ones_are_held_back(failures: Failures) -> None:
    await fail(failures, "192.0.2.1", ALLOWED)
    assert await held_back(failures, "192.0.2.1")
    assert not await held_back(failures, "192.0.2.2")


async def test_a_minute_later_it_begins_anew(failures: Failures, clock: Clock) -> None:
    await fail(failures, "192.0.2.1", ALLOWED)
    clock.now += 59
    assert await held_back(failures, "192.0.2.1")
    clock.now += 1
    assert not await held_back(failures, "192.0.2.1")


async def test_the_addresses_of_one_customers_network_count_together(failures: Failures) -> None:
    for host in range(ALLOWED):
        await fail(failures, f"2001:db8:0:1::{host}", 1)
    assert await held_back(failures, "2001:db8:0:1::ffff")
    assert not await held_back(failures, "2001:db8:0:2::1")


async def test_what_is_remembered_is_bounded(failures: Failures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ADDRESSES", 10)
    for number in range(1000):
        await fail(failures, f"192.0.2.{number}", 1)
    assert len(failures._counted) == 10


async def test_where_too_many_are_held_back_further_ones_are_told_so(
    failures: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HELD_BACK", 1)
    await fail(failures, "192.0.2.1", ALLOWED)
    waiting = asyncio.create_task(failures.note("192.0.2.1"))
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests):
        await failures.note("192.0.2.1")
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await held_back(failures, "192.0.2.1")
