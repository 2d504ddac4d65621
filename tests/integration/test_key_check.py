"""API keys are looked up in Postgres, and not for every request."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from runstream.api.auth import KeyCheck, Principal, hash_key, new_key
from runstream.domain.errors import Unavailable
from runstream.storage.database import connect
from runstream.storage.keys import KeyStore


class Counting(KeyStore):
    """The real store, with a count of its look-ups."""

    lookups = 0

    async def find(self, key_hash: bytes) -> tuple[str, str] | None:
        self.lookups += 1
        return await super().find(key_hash)


class Recovering(KeyStore):
    """Stores that are asked one after the other: as a database that comes back."""

    def __init__(self, *stores: KeyStore) -> None:
        self._stores = iter(stores)

    async def find(self, key_hash: bytes) -> tuple[str, str] | None:
        return await next(self._stores).find(key_hash)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Counting]:
    engine = connect(database_url, pool_size=5, timeout=5)
    yield Counting(engine)
    await engine.dispose()


async def added(store: KeyStore) -> str:
    key = new_key()
    await store.add(key_id="key_1", tenant="acme", user="ann", key_hash=hash_key(key), hint=key[:8])
    return key


async def test_requests_that_come_together_share_one_look_up(store: Counting) -> None:
    key, check = await added(store), KeyCheck(store)
    found = await asyncio.gather(*(check.principal(key) for _ in range(100)))
    assert set(found) == {Principal("acme", "ann")}
    assert store.lookups == 1


async def test_a_request_that_goes_away_does_not_take_the_look_up_with_it(store: Counting) -> None:
    key, check = await added(store), KeyCheck(store)
    gone = asyncio.create_task(check.principal(key))
    await asyncio.sleep(0)
    stays = asyncio.create_task(check.principal(key))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == Principal("acme", "ann")


async def test_a_revoked_key_is_refused_soon(store: Counting) -> None:
    key, check = await added(store), KeyCheck(store)
    assert await check.principal(key) is not None
    assert await store.revoke("key_1")

    async with asyncio.timeout(10):
        while await check.principal(key) is not None:
            await asyncio.sleep(0.05)
    assert store.lookups > 1


async def test_a_failed_look_up_is_not_remembered(store: Counting) -> None:
    key = await added(store)
    nowhere = connect("postgresql://nobody@127.0.0.1:1/nothing", pool_size=1, timeout=2)
    recovering = Recovering(KeyStore(nowhere), store)
    check = KeyCheck(recovering)
    with pytest.raises(Unavailable):
        await check.principal(key)
    assert await check.principal(key) == Principal("acme", "ann")
    await nowhere.dispose()
