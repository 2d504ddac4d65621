"""Tokens of an application's identity provider: which are good, whom they stand for, and how none can be forged."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from clock import Clock
from identity_provider import LIFE, IdentityProvider, Key, providing
from runstream.access import jwt_check as module
from runstream.access.jwt_check import JwtCheck
from runstream.access.key_sets import PublishedKeys, SharedSecret
from runstream.domain.errors import InvalidClaims
from runstream.domain.principal import Kind, Principal, Scope

SECRET = "a secret that is shared, of more than 32 bytes"
LONG_SECRET = SECRET * 2


class Scene(NamedTuple):
    """Two providers that are trusted, and an attacker who has a key and a server too, as nobody trusts."""

    provider: IdentityProvider
    other: IdentityProvider
    attacker: IdentityProvider
    keys: dict[str, Key]
    check: JwtCheck


async def has_tenant(tenant: str) -> bool:
    return tenant in {"acme", "globex"}


@pytest.fixture(scope="module")
async def scene() -> AsyncIterator[Scene]:
    """Its keys are named by their algorithms, but for `theirs`, the other provider's, and `own`, the attacker's."""
    keys = {algorithm: Key(algorithm, algorithm) for algorithm in ("RS256", "PS256", "ES256", "EdDSA")}
    keys |= {name: Key(name) for name in ("theirs", "own")}
    async with providing() as provider, providing() as other, providing() as attacker:
        provider.publish(*(keys[algorithm] for algorithm in ("RS256", "PS256", "ES256", "EdDSA")))
        other.publish(keys["theirs"])
        attacker.publish(keys["own"])
        async with aclosing(PublishedKeys(provider.url)) as first, aclosing(PublishedKeys(other.url)) as second:
            issuers = [provider.issuer(first), other.issuer(second)]
            yield Scene(provider, other, attacker, keys, JwtCheck(issuers, has_tenant))


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
async def test_a_token_that_is_signed_with_a_published_key_stands_for_its_user(scene: Scene, algorithm: str) -> None:
    principal = await scene.check.principal(scene.keys[algorithm].sign(scene.provider.claims()))
    assert principal is not None
    assert (principal.kind, principal.tenant, principal.user) == (Kind.USER, "acme", "ada")
    assert principal.scopes == {Scope.RUNS_READ, Scope.RUNS_WRITE}
    assert principal.until == pytest.approx(time.time() + LIFE, abs=60)


def b64(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parts(header: Any, claims: Any, signature: bytes = b"") -> str:
    return f"{b64(header)}.{b64(claims)}.{b64(signature) if signature else ''}"


def hmac_signed(header: Any, claims: Any, secret: bytes) -> str:
    """As HS256 does, with a secret that no library takes for one."""
    signed = f"{b64(header)}.{b64(claims)}"
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


Forge = Callable[[Scene], str]
UNSIGNED: dict[str, Forge] = {
    f"alg {spelling!r}, {what}": lambda scene, spelling=spelling, kept=kept: parts(
        {"alg": spelling, "kid": "RS256", "typ": "JWT"},
        scene.provider.claims(),
        signature_of(good(scene)) if kept else b"",
    )
    for spelling in ("none", "None", "NONE", "nOnE", "", None, 0, [], ["none"], ["RS256"], {})
    for what, kept in (("unsigned", False), ("with the signature of another", True))
}


def good(scene: Scene, **changed: Any) -> str:
    return scene.keys["RS256"].sign(scene.provider.claims(**changed))


def signature_of(token: str) -> bytes:
    text = token.rpartition(".")[2]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def public(scene: Scene, form: str) -> bytes:
    """The provider's public key, as an attacker has it."""
    key = scene.keys["RS256"].private.public_key()
    forms = {
        "PEM": lambda: key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "PEM without its last line break": lambda: forms["PEM"]().rstrip(),
        "PKCS 1": lambda: key.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "DER": lambda: key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "JWK": lambda: json.dumps(scene.keys["RS256"].jwk()).encode(),
        "modulus": scene.keys["RS256"].jwk()["n"].encode,
        "nothing": lambda: b"",
    }
    return forms[form]()


CONFUSED: dict[str, Forge] = {
    f"HS256 with the public key, as {form}": lambda scene, form=form: hmac_signed(
        {"alg": "HS256", "kid": "RS256"}, scene.provider.claims(), public(scene, form)
    )
    for form in ("PEM", "PEM without its last line break", "PKCS 1", "DER", "JWK", "modulus", "nothing")
}
LED_ASTRAY: dict[str, Forge] = {
    f"the attacker's key, named by {name}": lambda scene, header=header: scene.keys["own"].sign(
        scene.provider.claims(), **header(scene)
    )
    for name, header in {
        "nothing but its own name": lambda _: {},
        "the name of a published one": lambda _: {"kid": "RS256"},
        "jwk": lambda scene: {"kid": "RS256", "jwk": scene.keys["own"].jwk()},
        "jwk without a name": lambda scene: {"kid": "", "jwk": scene.keys["own"].jwk()},
        "jku": lambda scene: {"jku": scene.attacker.url},
        "x5u": lambda scene: {"x5u": scene.attacker.url},
        "x5c": lambda _: {"x5c": ["MIIB"]},
        "a path": lambda _: {"kid": "../../../dev/null"},
    }.items()
}
CLAIMS: dict[str, dict[str, Any]] = {
    "no exp": {"exp": None},
    "exp in the past": {"exp": 1_600_000_000},
    "exp beyond the leeway": {"exp": int(time.time()) - 31},
    "exp as text": {"exp": "99999999999"},
    "exp as truth": {"exp": True},
    "exp as a list": {"exp": [99999999999]},
    "exp not a number": {"exp": float("nan")},
    "exp infinite": {"exp": float("inf")},
    "nbf in the future": {"nbf": int(time.time()) + LIFE},
    "nbf as text": {"nbf": "soon"},
    "iat in the future": {"iat": int(time.time()) + LIFE},
    "no aud": {"aud": None},
    "aud of another": {"aud": "billing"},
    "aud as a list without us": {"aud": ["billing", "search"]},
    "aud as an empty list": {"aud": []},
    "aud as an object": {"aud": {"runstream": True}},
    "aud that begins as ours": {"aud": "runstream-admin"},
    "no iss": {"iss": None},
    "iss of nobody": {"iss": "https://login.example.com"},
    "iss as a list": {"iss": ["https://login.example.com"]},
    "sub as a number": {"sub": 7},
}
MALFORMED: dict[str, Forge] = {
    "claims that are a list": lambda scene: resigned(scene, [scene.provider.claims()]),
    "claims that are text": lambda scene: resigned(scene, "ada"),
    "claims that are nothing": lambda scene: resigned(scene, None),
    "claims too deep": lambda scene: resigned(scene, b'{"a":' * 3000 + b"1" + b"}" * 3000),
    "a header that is a list": lambda scene: parts([{"alg": "RS256"}], scene.provider.claims(), b"x"),
    "a header that is no JSON": lambda scene: parts(b"{", scene.provider.claims(), b"x"),
    "a kid that is a number": lambda scene: parts({"alg": "RS256", "kid": 1}, scene.provider.claims(), b"x"),
    "b64=false": lambda scene: jwt.PyJWS().encode(
        json.dumps(scene.provider.claims()).encode(),
        scene.keys["RS256"].private,
        "RS256",
        headers={"kid": "RS256"},
        is_payload_detached=True,
    ),
    "b64=false, with the claims": lambda scene: resigned(
        scene, scene.provider.claims(), {"b64": False, "crit": ["b64"]}
    ),
    "a crit that is not known": lambda scene: resigned(scene, scene.provider.claims(), {"crit": ["exp"], "exp": 1}),
    "an empty crit": lambda scene: resigned(scene, scene.provider.claims(), {"crit": []}),
    "a huge token": lambda scene: good(scene, padding="x" * 8192),
    "a signature cut short": lambda scene: good(scene)[:-4],
    "no signature": lambda scene: good(scene).rpartition(".")[0] + ".",
    "a signature of zeros": lambda scene: parts({"alg": "ES256", "kid": "ES256"}, scene.provider.claims(), b"\0" * 64),
    "claims of another": lambda scene: ".".join(
        [good(scene).split(".")[0], b64(scene.provider.claims(sub="bob")), good(scene).split(".")[2]]
    ),
    "two parts": lambda scene: good(scene).rpartition(".")[0],
    "four parts": lambda scene: good(scene) + ".x",
    "a space after it": lambda scene: good(scene) + " ",
    "a line break in it": lambda scene: good(scene).replace(".", "\n.", 1),
    "other letters": lambda scene: good(scene)[:-1] + "é",
    "only dots": lambda _: "..",
}


def resigned(scene: Scene, claims: Any, header: dict[str, Any] | None = None) -> str:
    """Signed as it should be, whatever is in it."""
    signed = f"{b64({'alg': 'RS256', 'kid': 'RS256', **(header or {})})}.{b64(claims)}"
    algorithm = jwt.get_algorithm_by_name("RS256")
    return f"{signed}.{b64(algorithm.sign(signed.encode(), scene.keys['RS256'].private))}"


def test_the_forger_makes_a_good_token_where_nothing_is_forged(scene: Scene) -> None:
    token = resigned(scene, scene.provider.claims())
    assert jwt.decode(token, options={"verify_signature": False}) == scene.provider.claims()


FORGED: dict[str, Forge] = {
    **UNSIGNED,
    **CONFUSED,
    **LED_ASTRAY,
    **{
        name: lambda scene, changed=changed: resigned(scene, scene.provider.claims(**changed))
        for name, changed in CLAIMS.items()
    },
    **MALFORMED,
    "a key of another issuer": lambda scene: scene.keys["theirs"].sign(scene.provider.claims()),
    "a key of ours for another issuer": lambda scene: scene.keys["RS256"].sign(scene.other.claims()),
    "a published key under another's name": lambda scene: scene.keys["RS256"].sign(
        scene.provider.claims(), kid="PS256"
    ),
    "RSA's key for another of RSA's algorithms": lambda scene: jwt.encode(
        scene.provider.claims(), scene.keys["RS256"].private, "PS256", headers={"kid": "RS256"}
    ),
    "RSA's key for an algorithm that is not allowed": lambda scene: jwt.encode(
        scene.provider.claims(), scene.keys["RS256"].private, "RS512", headers={"kid": "RS256"}
    ),
    "no name where there are several keys": lambda scene: jwt.encode(
        scene.provider.claims(), scene.keys["own"].private, "RS256"
    ),
}


@pytest.mark.promise("P7")
@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_token_is_refused(scene: Scene, name: str) -> None:
    control = await scene.check.principal(resigned(scene, scene.provider.claims()))
    assert control is not None
    assert await scene.check.principal(FORGED[name](scene)) is None
    assert scene.attacker.asked == 0


@pytest.mark.parametrize("aud", ["runstream", ["runstream"], ["billing", "runstream"]])
async def test_a_token_may_be_for_several_audiences(scene: Scene, aud: Any) -> None:
    assert await scene.check.principal(good(scene, aud=aud)) is not None


async def test_clocks_may_differ_by_the_leeway(scene: Scene) -> None:
    now = int(time.time())
    assert await scene.check.principal(good(scene, exp=now - 15, nbf=now + 15, iat=now + 15)) is not None


async def test_whoever_is_trusted_vouches_for_its_own_alone(scene: Scene) -> None:
    principal = await scene.check.principal(scene.keys["theirs"].sign(scene.other.claims(sub="bob")))
    assert principal is not None
    assert principal.user == "bob"


def shared(scene: Scene, **changed: Any) -> JwtCheck:
    return JwtCheck([scene.provider.issuer(SharedSecret(SECRET), **changed)], has_tenant)


async def with_claims(scene: Scene, claims: dict[str, Any], **changed: Any) -> Principal | None:
    return await shared(scene, **changed).principal(jwt.encode(scene.provider.claims(**claims), SECRET))


@pytest.mark.parametrize(
    "forge",
    [
        lambda scene: parts({"alg": "none"}, scene.provider.claims()),
        lambda scene: jwt.encode(scene.provider.claims(), LONG_SECRET, "HS512"),
        lambda scene: jwt.encode(scene.provider.claims(), SECRET + "!", "HS256"),
        lambda scene: scene.keys["own"].sign(scene.provider.claims()),
        lambda scene: hmac_signed({"alg": "HS256"}, scene.provider.claims(), b""),
    ],
)
async def test_with_a_shared_secret_it_is_hs256_with_that_secret_and_nothing_else(scene: Scene, forge: Forge) -> None:
    check = JwtCheck([scene.provider.issuer(SharedSecret(LONG_SECRET))], has_tenant)
    assert await check.principal(jwt.encode(scene.provider.claims(), LONG_SECRET, headers={"kid": "x"})) is not None
    assert await check.principal(forge(scene)) is None


@pytest.mark.parametrize(
    ("claims", "configured", "tenant", "user"),
    [
        ({"org": {"id": "globex"}}, {"tenant_claim": "org.id"}, "globex", "ada"),
        ({"https://example.com/org.id": "globex"}, {"tenant_claim": "https://example.com/org.id"}, "globex", "ada"),
        ({"tenant": None}, {"tenant": "globex"}, "globex", "ada"),
        ({"profile": {"login": "Jörg"}}, {"user_claim": "profile.login"}, "acme", "Jörg"),
        ({"sub": None}, {"kind": Kind.SERVER}, "acme", None),
    ],
)
async def test_tenant_and_user_are_where_the_configuration_says(
    scene: Scene, claims: dict[str, Any], configured: dict[str, Any], tenant: str, user: str | None
) -> None:
    principal = await with_claims(scene, claims, **configured)
    assert principal is not None
    assert (principal.tenant, principal.user) == (tenant, user)


@pytest.mark.parametrize(
    ("claims", "configured", "param"),
    [
        ({"tenant": None}, {}, "tenant"),
        ({"tenant": 7}, {}, "tenant"),
        ({"tenant": ["acme"]}, {}, "tenant"),
        ({"tenant": "a b"}, {}, "tenant"),
        ({"tenant": "nobody"}, {}, "tenant"),
        ({"org": "acme"}, {"tenant_claim": "org.id"}, "org.id"),
        ({"org": ["id"]}, {"tenant_claim": "org.id"}, "org.id"),
        ({"sub": None}, {}, "sub"),
        ({"sub": ""}, {}, "user"),
        ({"sub": "a\nb"}, {}, "user"),
        ({"sub": "x" * 129}, {}, "user"),
        ({"name": True}, {"user_claim": "name"}, "name"),
        ({}, {"scopes_claim": "scope"}, "scope"),
        ({"scope": 7}, {"scopes_claim": "scope"}, "scope"),
        ({"scope": [7]}, {"scopes_claim": "scope"}, "scope"),
        ({"scope": {"runs:read": True}}, {"scopes_claim": "scope"}, "scope"),
    ],
)
async def test_a_claim_that_is_missing_or_of_another_type_is_named(
    scene: Scene, claims: dict[str, Any], configured: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidClaims) as refused:
        await with_claims(scene, claims, **configured)
    assert refused.value.param == param
    assert (refused.value.status, refused.value.code) == (401, "invalid_claims")


MAPPED = {"ai.use": {Scope.RUNS_WRITE, Scope.RUNS_READ}, "ai.bill": {Scope.USAGE_READ}, "ai.admin": {Scope.ADMIN}}


@pytest.mark.parametrize(
    ("said", "configured", "scopes"),
    [
        ("runs:read openid", {}, {"runs:read"}),
        (["runs:read", "usage:read"], {}, {"runs:read", "usage:read"}),
        ("ai.use ai.bill", {"scope_map": MAPPED}, {"runs:write", "runs:read", "usage:read"}),
        ("runs:read", {"scope_map": MAPPED}, set()),
        ("", {}, set()),
        ("admin runs:read", {}, {"runs:read"}),
        ("ai.admin", {"scope_map": MAPPED}, set()),
        ("admin", {"kind": Kind.SERVER}, {"admin"}),
    ],
)
async def test_scopes_are_those_that_the_words_of_a_claim_stand_for(
    scene: Scene, said: Any, configured: dict[str, Any], scopes: set[str]
) -> None:
    principal = await with_claims(scene, {"scope": said}, scopes_claim="scope", **configured)
    assert principal is not None
    assert principal.scopes == scopes


async def test_a_token_is_verified_once_and_known_until_it_ends(scene: Scene) -> None:
    asked = []

    async def noted(tenant: str) -> bool:
        asked.append(tenant)
        return True

    clock = Clock()
    clock.now = time.time()
    check = JwtCheck([scene.provider.issuer(SharedSecret(SECRET))], noted, clock=clock)
    token = jwt.encode(scene.provider.claims(), SECRET)
    first = await check.principal(token)
    for _ in range(100):
        assert await check.principal(token) is first
    assert asked == ["acme"]
    clock.now += LIFE + 31
    assert await check.principal(token) == first  # verified anew, by the library's clock
    assert asked == ["acme"] * 2


async def test_what_is_known_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 10)
    check = shared(scene)
    for number in range(50):
        assert await check.principal(jwt.encode(scene.provider.claims(jti=str(number)), SECRET)) is not None
    assert len(check._known) == 10


async def test_nobody_is_trusted_where_nobody_is_configured(scene: Scene) -> None:
    assert await JwtCheck([], has_tenant).principal(good(scene)) is None
