"""Tokens for one run: good for what they say, for as long as they say, and for nothing else."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from clock import Clock
from runstream.access.check import KeyCheck
from runstream.access.keys import Keys
from runstream.access.run_tokens import PREFIX, Access, RunTokens
from runstream.access.token_secrets import TokenSecrets, rotate
from runstream.domain.errors import InvalidField
from runstream.domain.ids import new_id
from runstream.domain.principal import Kind, OneRun, Owner, Principal, RunAct
from runstream.storage.keys import KeyStore
from runstream.storage.token_secrets import TokenSecretStore

RUN = new_id("run")
ADA = Owner("acme", "ada")
MINUTE = 60
JWT = Principal("jwt_1", Kind.USER, "acme", "ada", frozenset(), until=time.time() + 3600)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(overall: AsyncEngine) -> Keys:
    return Keys(KeyStore(overall))


@pytest.fixture
def store(overall: AsyncEngine) -> TokenSecretStore:
    return TokenSecretStore(overall)


@pytest.fixture
def asked(overall: AsyncEngine) -> list[str]:
    """Each statement that Postgres is asked from now on."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(overall.sync_engine, "before_cursor_execute", note)
    return statements


def process(overall: AsyncEngine, clock: Clock, *, ahead: float = 0) -> RunTokens:
    """What each API process has; its clock is `ahead` by so many seconds."""
    secrets = TokenSecrets(TokenSecretStore(overall), clock=clock)
    return RunTokens(secrets, KeyCheck(KeyStore(overall), clock=clock), clock=lambda: time.time() + ahead)


@pytest.fixture
def tokens(overall: AsyncEngine, clock: Clock) -> RunTokens:
    return process(overall, clock)


async def made(tokens: RunTokens, asking: Principal = JWT, access: Access = Access.READ, **of: Any) -> str:
    return (await tokens.mint(asking, of.get("run", RUN), of.get("owner", ADA), access, MINUTE)).token


async def key_of(keys: Keys, **wanted: Any) -> Principal:
    """Who asks with a new key of a server's."""
    record, _ = await keys.create(kind=Kind.SERVER, tenant="acme", user=None, **wanted)
    until = record.expires_at and record.expires_at.timestamp()
    return Principal(record.id, Kind.SERVER, "acme", None, record.scopes, until=until)


async def test_it_stands_for_the_runs_user_for_that_run_and_what_was_asked_for(
    overall: AsyncEngine, clock: Clock, tokens: RunTokens
) -> None:
    for access, may in (Access.READ, {RunAct.READ}), (Access.READ_AND_CANCEL, {RunAct.READ, RunAct.CANCEL}):
        minted = await tokens.mint(JWT, RUN, ADA, access, MINUTE)
        assert minted.expires_at == pytest.approx(time.time() + MINUTE, abs=30)
        principal = await process(overall, clock).principal(minted.token)
        assert principal is not None
        assert (principal.kind, principal.owner, principal.scopes) == (Kind.USER, ADA, frozenset())
        assert principal.only == OneRun(RUN, frozenset(may))
        assert principal.until == minted.expires_at


def changed(token: str, **claims: Any) -> str:
    """Other claims under the same signature."""
    header, payload, signature = token.removeprefix(PREFIX).split(".")
    said = json.loads(base64.urlsafe_b64decode(payload + "=="))
    forged = json.dumps({**said, **claims}, separators=(",", ":")).encode()
    return f"{PREFIX}{header}.{base64.urlsafe_b64encode(forged).rstrip(b'=').decode()}.{signature}"


def signed(token: str, secret: str, algorithm: str | None = "HS256", **headers: Any) -> str:
    """The same claims, signed otherwise."""
    bare = token.removeprefix(PREFIX)
    claims = jwt.decode(bare, options={"verify_signature": False})
    headers = {**jwt.get_unverified_header(bare), "alg": algorithm or "none", **headers}
    return PREFIX + jwt.encode(claims, secret, algorithm, headers=headers)


FORGED = {
    "another run": lambda token: changed(token, run=new_id("run")),
    "another tenant": lambda token: changed(token, tenant="globex"),
    "another user": lambda token: changed(token, sub="bob"),
    "more access": lambda token: changed(token, access="read_and_cancel"),
    "a later end": lambda token: changed(token, exp=2**32),
    "no end": lambda token: changed(token, exp=None),
    "a key that is good": lambda token: changed(token, key="key_1"),
    "another secret": lambda token: signed(token, "x" * 32),
    "no signature": lambda token: signed(token, "", None),
    "another secret, of nobody": lambda token: signed(token, "x" * 32, kid="tks_1"),
    "a secret without a name": lambda token: signed(token, "x" * 32, kid=""),
    "cut short": lambda token: token[:-1],
    "cut to its claims": lambda token: token.rpartition(".")[0],
    "nothing": lambda _: PREFIX,
    "twice": lambda token: token + token,
    "without its prefix": lambda token: token.removeprefix(PREFIX)[1:],
    "huge": lambda token: token + "x" * 10_000,
    "other letters": lambda token: token + "é",
}


@pytest.mark.promise("P7")
async def test_what_is_changed_in_it_makes_it_good_for_nothing(tokens: RunTokens) -> None:
    token = await made(tokens)
    assert changed(token) == token
    assert await tokens.principal(token) is not None
    for name, forge in FORGED.items():
        assert await tokens.principal(forge(token)) is None, name


async def test_no_letter_of_it_can_be_another(tokens: RunTokens) -> None:
    token = await made(tokens)
    for at in range(len(PREFIX), len(token)):
        other = "A" if token[at] != "A" else "B"
        assert await tokens.principal(token[:at] + other + token[at + 1 :]) is None, at


async def test_it_ends_when_it_was_made_to(overall: AsyncEngine, clock: Clock) -> None:
    assert await process(overall, clock).principal(await made(process(overall, clock, ahead=5 - MINUTE))) is not None
    assert await process(overall, clock).principal(await made(process(overall, clock, ahead=-MINUTE - 1))) is None


async def test_it_does_not_outlive_what_it_was_asked_for_with(keys: Keys, tokens: RunTokens) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=20)
    expiring = await key_of(keys, expires_at=soon)
    lasting = await key_of(keys, expires_at=soon + timedelta(days=1))
    of_a_jwt = Principal("jwt_1", Kind.USER, "acme", "ada", frozenset(), until=soon.timestamp())
    for asking, ends in ((expiring, soon), (of_a_jwt, soon), (lasting, datetime.now(UTC) + timedelta(seconds=MINUTE))):
        minted = await tokens.mint(asking, RUN, ADA, Access.READ, MINUTE)
        assert minted.expires_at == pytest.approx(ends.timestamp(), abs=5)


@pytest.mark.parametrize("ended", ["revoked", "rotated", "expired"])
async def test_it_ends_with_the_key_that_it_was_asked_for_with_within_a_second_in_every_process(
    keys: Keys, overall: AsyncEngine, clock: Clock, ended: str
) -> None:
    asking, other = await key_of(keys), await key_of(keys)
    processes = [process(overall, clock) for _ in range(3)]
    token, kept = await made(processes[0], asking), await made(processes[0], other)
    for each in processes[:2]:
        assert await each.principal(token) is not None
    if ended == "revoked":
        await keys.revoke(None, asking.credential)
    elif ended == "rotated":
        await keys.rotate(None, asking.credential, overlap=timedelta())
    else:
        async with overall.connect() as connection:
            query = text("update api_keys set expires_at = now(), changed_at = now() where id = :id")
            await connection.execute(query, {"id": asking.credential})
    clock.now += 1
    for each in processes:
        assert await each.principal(token) is None
        assert await each.principal(kept) is not None


async def test_a_thousand_calls_ask_postgres_twice_a_second_and_once_for_each_key(
    keys: Keys, overall: AsyncEngine, clock: Clock, asked: list[str]
) -> None:
    minting, seconds, calls = await key_of(keys), 10, 1000
    checking = process(overall, clock)
    every = [await made(checking, minting, run=new_id("run")) for _ in range(20)]
    asked.clear()
    for number in range(calls):
        assert await checking.principal(every[number % len(every)]) is not None
        clock.now += seconds / calls
    assert len(asked) <= 1 + 2 * (seconds + 1)


async def test_the_secret_is_made_once_for_all_processes(
    overall: AsyncEngine, clock: Clock, store: TokenSecretStore
) -> None:
    processes = [process(overall, clock) for _ in range(3)]
    every = await asyncio.gather(*(made(each) for each in processes for _ in range(3)))
    clock.now += 1
    for each in processes:
        assert all([await each.principal(token) is not None for token in every])
    secrets = await store.good()
    await made(process(overall, clock))
    assert await store.good() == secrets
    assert all(len(secret) == 32 for secret in secrets.values())


async def test_an_older_secret_is_good_until_its_overlap_ends(
    overall: AsyncEngine, clock: Clock, store: TokenSecretStore
) -> None:
    tokens = process(overall, clock)
    first = await made(tokens)
    await rotate(store, timedelta(hours=1))
    clock.now += 1
    second = await made(tokens)
    assert jwt.get_unverified_header(first[3:])["kid"] < jwt.get_unverified_header(second[3:])["kid"]
    assert await tokens.principal(first) is not None
    await rotate(store, timedelta())
    clock.now += 1
    assert await tokens.principal(second) is None
    assert await tokens.principal(first) is not None
    async with overall.connect() as connection:
        await connection.execute(text("update token_secrets set until = now() where until is not null"))
    clock.now += 1
    assert await tokens.principal(first) is None
    assert await tokens.principal(await made(tokens)) is not None
    await rotate(store, timedelta())
    async with overall.connect() as connection:
        assert (await connection.execute(text("select count(*) from token_secrets"))).scalar_one() == 2


async def test_an_overlap_is_a_day_at_most(store: TokenSecretStore) -> None:
    for overlap in timedelta(seconds=-1), timedelta(days=1, seconds=1):
        with pytest.raises(InvalidField):
            await rotate(store, overlap)


async def test_the_longest_names_fit(tokens: RunTokens) -> None:
    owner = Owner("t" * 64, "\N{GRINNING FACE}" * 128)
    principal = await tokens.principal(await made(tokens, owner=owner))
    assert principal is not None
    assert principal.owner == owner
