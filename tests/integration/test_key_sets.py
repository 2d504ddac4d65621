"""The keys that an identity provider publishes: read seldom, changed while tokens are checked, and away at times."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from clock import Clock
from identity_provider import IdentityProvider, Key, providing
from runstream.access import key_sets as module
from runstream.access.jwt_check import JwtCheck
from runstream.access.key_sets import PublishedKeys, SharedSecret
from runstream.domain.errors import ConfigurationError, ProviderError, Unavailable

DEADLINE = 10


@pytest.fixture(scope="module")
def old() -> Key:
    return Key("old")


@pytest.fixture(scope="module")
def new() -> Key:
    return Key("new")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider(old: Key) -> AsyncIterator[IdentityProvider]:
    async with providing() as provider:
        provider.publish(old)
        yield provider


@pytest.fixture
async def keys(provider: IdentityProvider, clock: Clock) -> AsyncIterator[PublishedKeys]:
    async with aclosing(PublishedKeys(provider.url, clock=clock)) as keys:
        yield keys


async def has(keys: PublishedKeys, kid: str | None, algorithm: str = "RS256") -> bool:
    async with asyncio.timeout(DEADLINE):
        return await keys.find(kid, algorithm) is not None


async def test_a_key_that_came_later_is_found_when_a_token_names_it(
    keys: PublishedKeys, provider: IdentityProvider, clock: Clock, old: Key, new: Key
) -> None:
    assert await has(keys, "old")
    provider.publish(new, old)
    clock.now += 30
    assert await has(keys, "new")
    assert await has(keys, "old")
    assert provider.asked == 2


async def test_names_that_are_made_up_have_the_keys_read_every_half_a_minute_at_most(
    keys: PublishedKeys, provider: IdentityProvider, clock: Clock
) -> None:
    assert await has(keys, "old")
    for number in range(300):
        assert not await has(keys, f"made up {number}")
        clock.now += 1
    assert provider.asked == 10


async def test_those_who_come_together_share_one_reading(keys: PublishedKeys, provider: IdentityProvider) -> None:
    assert all(await asyncio.gather(*(has(keys, "old") for _ in range(100))))
    assert provider.asked == 1


async def test_who_names_a_known_key_does_not_wait_for_who_names_another(
    keys: PublishedKeys, provider: IdentityProvider, clock: Clock
) -> None:
    assert await has(keys, "old")
    provider.open.clear()
    clock.now += 30
    waiting = asyncio.create_task(has(keys, "made up"))
    while provider.asked < 2:
        await asyncio.sleep(0.001)
    assert await has(keys, "old")
    assert not waiting.done()
    gone = asyncio.create_task(has(keys, "made up too"))
    await asyncio.sleep(0)
    gone.cancel()
    provider.open.set()
    assert not await waiting
    assert provider.asked == 2


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 404},
        {"status": 302, "headers": {"Location": "/jwks.json"}},
        {"document": "{"},
        {"document": "[]"},
        {"document": "null"},
        {"document": {"keys": {}}},
        {"document": {"keys": []}},
        {"document": {"keys": [1, None, {}, {"kty": "RSA"}, {"kty": ["RSA"]}]}},
    ],
)
async def test_keys_that_are_known_stay_while_others_cannot_be_read(
    keys: PublishedKeys, provider: IdentityProvider, clock: Clock, old: Key, new: Key, fault: dict[str, Any]
) -> None:
    assert await has(keys, "old")
    for name, value in fault.items():
        setattr(provider, name, value)
    with pytest.raises(ProviderError):
        await keys.read()
    clock.now += 30
    assert not await has(keys, "new")
    assert await has(keys, "old")
    assert provider.asked == 3
    provider.status, provider.headers = 200, {}
    provider.publish(new)
    assert not await has(keys, "new")
    clock.now += 5
    assert await has(keys, "new")
    assert not await has(keys, "old")


async def test_while_no_key_is_known_nobody_is_told_that_a_token_is_not_good(clock: Clock, old: Key) -> None:
    async with providing() as provider:
        port = int(provider.url.split(":")[2].split("/")[0])
    async with aclosing(PublishedKeys(provider.url, clock=clock)) as keys:
        with pytest.raises(Unavailable):
            await keys.find("old", "RS256")
        async with providing(port) as provider:
            provider.publish(old)
            with pytest.raises(Unavailable):
                await keys.find("old", "RS256")
            assert provider.asked == 0
            clock.now += 5
            assert await has(keys, "old")


async def test_a_provider_that_does_not_answer_is_not_waited_for(
    keys: PublishedKeys, provider: IdentityProvider, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await has(keys, "old")
    monkeypatch.setattr(module, "_DEADLINE", 0.05)
    provider.open.clear()
    clock.now += 30
    assert not await has(keys, "new")
    assert await has(keys, "old")


async def test_what_was_verified_with_a_key_that_is_withdrawn_is_good_no_longer(
    keys: PublishedKeys, provider: IdentityProvider, old: Key, new: Key
) -> None:
    async def has_tenant(_: str) -> bool:
        return True

    check = JwtCheck([provider.issuer(keys)], has_tenant)
    token = old.sign(provider.claims())
    assert await check.principal(token) is not None
    provider.publish(old, new)
    await keys.read()
    assert keys.version == 0
    assert await check.principal(token) is not None
    provider.publish(new)
    await keys.read()
    assert await check.principal(token) is None
    provider.document = {"keys": [Key("new").jwk()]}
    await keys.read()
    assert keys.version == 2


async def test_they_are_read_before_anybody_asks_and_again_and_again(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_AGE", 0.01)
    monkeypatch.setattr(module, "_RETRY", 0.01)
    running = asyncio.create_task(PublishedKeys(provider.url).run())
    for status in (200, 500, 200):
        provider.status = status
        asked = provider.asked
        async with asyncio.timeout(DEADLINE):
            while provider.asked < asked + 3:
                await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize(
    "members",
    [
        {"use": "enc"},
        {"alg": "RSA-OAEP"},
        {"alg": "RS512"},
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": ["RS256"]},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "EC"},
        {"kid": 7},
        {"n": "AQAB"},
        {"n": None},
        {"n": 7},
        {"n": "é"},
        {"e": "AA"},
    ],
)
async def test_a_key_that_is_for_something_else_is_none(
    keys: PublishedKeys, provider: IdentityProvider, old: Key, new: Key, members: dict[str, Any]
) -> None:
    provider.document = {"keys": [new.jwk(**members), old.jwk()]}
    await keys.read()
    assert keys.algorithms == ["RS256"]
    assert await has(keys, "old")
    assert not await has(keys, "new")
    assert not await has(keys, "new", "HS256")


async def test_a_key_that_does_not_say_is_for_all_that_its_kind_is(
    keys: PublishedKeys, provider: IdentityProvider, old: Key
) -> None:
    provider.document = {"keys": [old.jwk(alg=None, use=None, key_ops=["verify"], kid=None)]}
    await keys.read()
    assert keys.algorithms == ["RS256", "PS256"]
    assert await has(keys, None)
    assert not await has(keys, "old")


async def test_without_a_name_it_is_the_only_key_that_there_is(
    keys: PublishedKeys, provider: IdentityProvider, old: Key, new: Key
) -> None:
    await keys.read()
    assert await has(keys, None)
    provider.publish(old, new)
    await keys.read()
    assert not await has(keys, None)


async def test_a_set_that_is_too_large_is_not_read(keys: PublishedKeys, provider: IdentityProvider, old: Key) -> None:
    provider.document = {"keys": [old.jwk()], "padding": "x" * 300_000}
    with pytest.raises(ProviderError, match="larger"):
        await keys.read()


async def test_a_key_of_rsa_that_is_short_is_none(keys: PublishedKeys, provider: IdentityProvider, old: Key) -> None:
    short = Key("short", "EdDSA")
    short.algorithm, short.private = "RS256", rsa.generate_private_key(65537, 1024)
    provider.publish(short, old)
    await keys.read()
    assert keys.algorithms == ["RS256"]
    assert not await has(keys, "short")


async def test_only_algorithms_that_are_allowed_are(provider: IdentityProvider, old: Key) -> None:
    ecdsa = Key("ec", "ES256")
    provider.publish(old, ecdsa)
    async with aclosing(PublishedKeys(provider.url, ["ES256"])) as keys:
        assert await has(keys, "ec", "ES256")
        assert not await has(keys, "old")
        provider.publish(old)
        with pytest.raises(ProviderError, match="no key for ES256"):
            await keys.read()


async def test_a_private_key_that_was_published_by_mistake_verifies_as_its_public_half(
    keys: PublishedKeys, provider: IdentityProvider, old: Key
) -> None:
    private = jwt.get_algorithm_by_name("RS256").to_jwk(old.private, as_dict=True)
    provider.document = {"keys": [{**private, "kid": "old", "key_ops": ["sign", "verify"]}]}
    await keys.read()
    key = await keys.find("old", "RS256")
    assert key is not None
    assert jwt.decode(old.sign({"a": 1}), key, ["RS256"]) == {"a": 1}


@pytest.mark.parametrize("form", ["PEM", "JWK"])
def test_a_public_key_is_no_shared_secret(old: Key, form: str) -> None:
    pem = old.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    with pytest.raises(ConfigurationError, match="jwks_url"):
        SharedSecret(pem if form == "PEM" else json.dumps(old.jwk()))
