"""API keys are learned from Postgres when they are first used, and what changed of them within a second."""

import asyncio
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

import jwt
import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from clock import Clock
from identity_provider import IdentityProvider
from runstream.access.authenticate import Authenticate
from runstream.access.check import KeyCheck
from runstream.access.failures import Failures
from runstream.access.jwt_check import JwtCheck
from runstream.access.key_sets import SharedSecret
from runstream.access.keys import Keys
from runstream.access.run_tokens import Access, RunTokens
from runstream.access.secrets import new_key
from runstream.access.token_secrets import TokenSecrets
from runstream.domain.errors import Unauthenticated, Unavailable
from runstream.domain.principal import Kind, Owner, Principal
from runstream.storage.database import connect
from runstream.storage.keys import Found, KeyStore, Name
from runstream.storage.token_secrets import TokenSecretStore

NOW = timedelta()
SECRET = "a secret that is shared, of more than 32 bytes"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(overall: AsyncEngine) -> Keys:
    return Keys(KeyStore(overall))


@pytest.fixture
def asked(overall: AsyncEngine) -> list[str]:
    """Each statement that Postgres is asked from now on."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(overall.sync_engine, "before_cursor_execute", note)
    return statements


def authentication(
    overall: AsyncEngine, clock: Clock, failures: Failures, check: KeyCheck | None = None
) -> tuple[Authenticate, RunTokens]:
    """As an API process has it, with an identity provider that is trusted."""
    store = KeyStore(overall)
    check = check or KeyCheck(store, clock=clock)
    issuer = IdentityProvider("https://login.example.com").issuer(SharedSecret(SECRET))
    run_tokens = RunTokens(TokenSecrets(TokenSecretStore(overall), clock=clock), check)
    return Authenticate(check, JwtCheck([issuer], Keys(store).has_tenant), run_tokens, failures), run_tokens


@pytest.fixture
def check(overall: AsyncEngine, clock: Clock) -> KeyCheck:
    return KeyCheck(KeyStore(overall), clock=clock)


async def made(keys: Keys, user: str = "ann", **wanted: Any) -> tuple[str, str]:
    """A new key, and its id."""
    record, key = await keys.create(kind=Kind.USER, tenant="acme", user=user, **wanted)
    return key, record.id


def of(key_id: str, principal: Principal | None) -> bool:
    return principal is not None and (principal.credential, principal.tenant, principal.user) == (key_id, "acme", "ann")


async def test_requests_that_come_together_share_one_question(keys: Keys, check: KeyCheck, asked: list[str]) -> None:
    key, key_id = await made(keys)
    asked.clear()
    found = await asyncio.gather(*(check.principal(key) for _ in range(100)))
    assert all(of(key_id, each) for each in found)
    assert len(asked) == 1


async def test_a_request_that_goes_away_does_not_take_the_question_with_it(keys: Keys, check: KeyCheck) -> None:
    key, key_id = await made(keys)
    gone = asyncio.create_task(check.principal(key))
    await asyncio.sleep(0)
    stays = asyncio.create_task(check.principal(key))
    await asyncio.sleep(0)
    gone.cancel()
    assert of(key_id, await stays)


async def test_a_hundred_thousand_calls_of_two_processes_ask_less_than_once_for_each_key_and_second(
    keys: Keys, overall: AsyncEngine, clock: Clock, asked: list[str]
) -> None:
    calls, seconds = 100_000, 10
    checks = [KeyCheck(KeyStore(overall), clock=clock) for _ in range(2)]
    every = [(await made(keys, user=f"user-{number}"))[0] for number in range(20)]
    asked.clear()
    turns = zip(range(calls), cycle(every), cycle([checks[0]] * 20 + [checks[1]] * 20), strict=False)
    for _, key, check in turns:
        assert await check.principal(key) is not None
        clock.now += seconds / calls
    assert len(asked) <= len(checks) * (len(every) + seconds + 1) < len(every) * seconds


async def test_a_revoked_key_is_refused_a_second_later_in_every_process(
    keys: Keys, overall: AsyncEngine, clock: Clock
) -> None:
    key, key_id = await made(keys)
    other, other_id = await made(keys)
    checks = [KeyCheck(KeyStore(overall), clock=clock) for _ in range(2)]
    for check in checks:
        assert of(key_id, await check.principal(key))
        assert of(other_id, await check.principal(other))
    await keys.revoke(None, key_id)
    clock.now += 1
    for check in checks:
        assert await check.principal(key) is None
        assert of(other_id, await check.principal(other))


async def test_a_key_that_was_revoked_while_nobody_asked_is_refused(
    keys: Keys, overall: AsyncEngine, check: KeyCheck, clock: Clock
) -> None:
    key, key_id = await made(keys)
    assert of(key_id, await check.principal(key))
    await keys.revoke(None, key_id)
    async with overall.connect() as connection:
        await connection.execute(text("update api_keys set changed_at = now() - interval '1 hour'"))
    clock.now += 3600
    assert await check.principal(key) is None


async def test_a_changed_key_is_looked_up_once_for_its_change(
    keys: Keys, check: KeyCheck, clock: Clock, asked: list[str]
) -> None:
    key, key_id = await made(keys)
    await keys.rotate(None, key_id, overlap=timedelta(hours=1))
    asked.clear()
    for _ in range(10):
        assert of(key_id, await check.principal(key))
        clock.now += 1
    assert len(asked) == 10  # one to learn of it, and one a second afterwards


async def test_a_rotated_key_goes_on_until_its_overlap_ends_and_no_longer(
    keys: Keys, check: KeyCheck, clock: Clock
) -> None:
    key, key_id = await made(keys)
    assert of(key_id, await check.principal(key))
    record, new = await keys.rotate(None, key_id, overlap=timedelta(hours=1))
    clock.now += 1
    assert of(key_id, await check.principal(key))
    assert of(record.id, await check.principal(new))
    _, newest = await keys.rotate(None, record.id, overlap=NOW)
    clock.now += 1
    assert await check.principal(new) is None
    assert await check.principal(newest) is not None


async def test_a_key_ends_when_it_expires_though_nothing_changes(
    keys: Keys, overall: AsyncEngine, check: KeyCheck, clock: Clock
) -> None:
    key, key_id = await made(keys, expires_at=datetime.now(UTC) + timedelta(seconds=100))
    began = clock.now
    assert of(key_id, await check.principal(key))
    async with overall.connect() as connection:  # the time that the test does not wait for
        await connection.execute(text("update api_keys set expires_at = now()"))
    while clock.now < began + 98:
        assert of(key_id, await check.principal(key))
        clock.now += 1
    clock.now = began + 99.5
    assert of(key_id, await check.principal(key))
    clock.now = began + 100
    assert await check.principal(key) is None


async def test_all_keys_that_are_not_good_take_the_same_work_and_get_the_same_answer(
    keys: Keys, overall: AsyncEngine, clock: Clock, asked: list[str]
) -> None:
    good, _ = await made(keys)
    revoked, revoked_id = await made(keys)
    await keys.revoke(None, revoked_id)
    rotated, rotated_id = await made(keys)
    await keys.rotate(None, rotated_id, overlap=NOW)
    expired, expired_id = await made(keys, expires_at=datetime.now(UTC) + timedelta(hours=1))
    async with overall.connect() as connection:
        await connection.execute(text("update api_keys set expires_at = now() where id = :id"), {"id": expired_id})
    work = []
    for key in (new_key(), revoked, rotated, expired, "rs_", "é", good + "x", good.upper(), "x" * 10_000):
        clock.now += 3600
        failures = Failures(1000, clock=clock)
        authenticate, _ = authentication(overall, clock, failures)
        await authenticate(good, "192.0.2.1")
        asked.clear()
        said = set()
        for _ in range(3):
            with pytest.raises(Unauthenticated) as refused:
                await authenticate(key, "192.0.2.1")
            said.add((refused.value.message, refused.value.param))
        work.append((said, list(asked), dict(failures._counted).keys(), [n for _, n in failures._counted.values()]))
    assert all(each == work[0] for each in work)
    assert len(work[0][1]) == 1


async def test_all_tokens_that_are_not_good_take_the_work_of_a_key_that_is_not_and_count_as_failures(
    keys: Keys, overall: AsyncEngine, clock: Clock, asked: list[str]
) -> None:
    good, _ = await made(keys)
    provider = IdentityProvider("https://login.example.com")
    failures = Failures(1000, clock=clock)
    authenticate, run_tokens = authentication(overall, clock, failures)
    owner = Owner("acme", "ann")
    minted = await run_tokens.mint(await authenticate(good, "192.0.2.1"), "run_1", owner, Access.READ, 60)
    revoked, revoked_id = await made(keys)
    of_a_revoked_key = await run_tokens.mint(await authenticate(revoked, "192.0.2.1"), "run_1", owner, Access.READ, 60)
    await keys.revoke(None, revoked_id)
    signed = jwt.encode(provider.claims(), SECRET)
    assert (await authenticate(signed, "192.0.2.1")).user == "ada"
    assert (await authenticate(minted.token, "192.0.2.1")).user == "ann"
    refused = {
        "a JWT of an unknown issuer": (jwt.encode(provider.claims(iss="https://x"), SECRET), "unauthenticated"),
        "a JWT that is expired": (jwt.encode(provider.claims(exp=1), SECRET), "unauthenticated"),
        "a JWT for others": (jwt.encode(provider.claims(aud="others"), SECRET), "unauthenticated"),
        "a JWT with another signature": (jwt.encode(provider.claims(), SECRET * 2), "unauthenticated"),
        "a JWT cut short": (signed[:-1], "unauthenticated"),
        "no JWT": ("a.b.c", "unauthenticated"),
        "a huge JWT": (f"{signed}{'x' * 10_000}", "unauthenticated"),
        "a JWT of nobody": (jwt.encode(provider.claims(sub=None), SECRET), "invalid_claims"),
        "a run token cut short": (minted.token[:-1], "unauthenticated"),
        "no run token": ("rt_", "unauthenticated"),
        "a run token of a revoked key": (of_a_revoked_key.token, "unauthenticated"),
        "nothing known": ("basic", "unauthenticated"),
    }
    for name, (credential, code) in refused.items():
        clock.now += 3600
        await authenticate(minted.token, "192.0.2.1")
        asked.clear()
        failures._counted.clear()
        with pytest.raises(Unauthenticated) as refusal:
            await authenticate(credential, "192.0.2.1")
        assert refusal.value.code == code, name
        assert "api_keys.hash = ANY" in asked[-1], name
        assert sum("api_keys.hash = ANY" in statement for statement in asked) == 1 + ("revoked" in name), name
        assert [count for _, count in failures._counted.values()] == [1], name


async def test_a_good_key_is_answered_at_once_though_others_failed_from_its_address(
    keys: Keys, overall: AsyncEngine, check: KeyCheck, clock: Clock
) -> None:
    key, key_id = await made(keys)
    authenticate, _ = authentication(overall, clock, Failures(0, clock=clock, pause=3600), check)
    failing = [asyncio.create_task(authenticate(new_key(), "192.0.2.1")) for _ in range(100)]
    for _ in range(2):
        async with asyncio.timeout(10):
            assert of(key_id, await authenticate(key, "192.0.2.1"))
    assert not any(task.done() for task in failing)
    for task in failing:
        task.cancel()
    await asyncio.wait(failing)


async def test_use_is_written_once_a_minute_and_by_no_request(
    keys: Keys, overall: AsyncEngine, clock: Clock, asked: list[str]
) -> None:
    key, _ = await made(keys)
    await made(keys, user="bob")
    checks = [KeyCheck(KeyStore(overall), clock=clock) for _ in range(2)]

    def writes() -> int:
        return sum(statement.startswith("UPDATE") for statement in asked)

    async def used() -> list[datetime | None]:
        for check in checks:
            before = writes()
            assert await check.principal(key)
            assert writes() == before
            await check.write_uses()
        return [record.last_used_at for record in await keys.all("acme")]

    first, never = await used()
    assert first is not None
    assert never is None
    assert writes() == 2
    for _ in range(5):
        clock.now += 11
        assert await used() == [first, never]
    assert writes() == 2
    clock.now += 5
    assert await used() == [first, never]
    assert writes() == 4
    async with overall.connect() as connection:
        await connection.execute(text("update api_keys set last_used_at = last_used_at - interval '61 s'"))
    clock.now += 60
    again, never = await used()
    assert again is not None
    assert again > first
    assert never is None


class Recovering(KeyStore):
    """Stores that are asked one after the other: as a database that comes back."""

    def __init__(self, *stores: KeyStore) -> None:
        self._stores = iter(stores)

    async def find(self, names: Collection[Name]) -> list[Found]:
        return await next(self._stores).find(names)

    async def changed(self, seconds: float) -> Mapping[Name, datetime]:
        return await next(self._stores).changed(seconds)


async def test_what_postgres_did_not_answer_is_not_remembered(keys: Keys, overall: AsyncEngine, clock: Clock) -> None:
    key, key_id = await made(keys)
    nowhere = connect("postgresql://nobody@127.0.0.1:1/nothing", pool_size=1, timeout=2)
    away, there = KeyStore(nowhere), KeyStore(overall)
    check = KeyCheck(Recovering(away, there, away, there), clock=clock)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await check.principal(key)
        assert of(key_id, await check.principal(key))
        clock.now += 1
    await nowhere.dispose()
