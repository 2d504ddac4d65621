"""An application's own identity provider: it publishes keys, and signs tokens with them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from runstream.access.issuers import Issuer
from runstream.access.key_sets import KeySource
from runstream.domain.principal import Kind, Scope
from runstream.embedded.port import free_port

AUDIENCE = "runstream"
LIFE = 3600
_MAKERS = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "PS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


class Key:
    def __init__(self, kid: str | None, algorithm: str = "RS256") -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.private = _MAKERS[algorithm]()

    def jwk(self, **members: Any) -> dict[str, Any]:
        """As it is published; a member that is given as None is left out."""
        public = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key(), as_dict=True)
        jwk = {**public, "kid": self.kid, "alg": self.algorithm, "use": "sig", **members}
        jwk.pop("key_ops", None) if "key_ops" not in members else None
        return {name: value for name, value in jwk.items() if value is not None}

    def sign(self, claims: Any, **headers: Any) -> str:
        return jwt.encode(claims, self.private, self.algorithm, headers={"kid": self.kid, **headers})


class IdentityProvider:
    """Answers with what is in `document`, as often as it is asked, with `status`, and once `open` is set."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.document: Any = {"keys": []}
        self.status = 200
        self.headers: dict[str, str] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.asked = 0

    def publish(self, *keys: Key) -> None:
        self.document = {"keys": [key.jwk() for key in keys]}

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Of a token that is good; a claim that is given as None is left out."""
        good = {"iss": self.url, "aud": AUDIENCE, "exp": int(time.time()) + LIFE, "sub": "ada", "tenant": "acme"}
        return {name: value for name, value in {**good, **changed}.items() if value is not None}

    def issuer(self, keys: KeySource, **changed: Any) -> Issuer:
        """As the configuration would have it."""
        given: dict[str, Any] = {
            "name": self.url,
            "audience": [AUDIENCE],
            "keys": keys,
            "leeway": 30,
            "kind": Kind.USER,
            "tenant": None,
            "tenant_claim": "tenant",
            "user_claim": "sub",
            "scopes": {Scope.RUNS_READ, Scope.RUNS_WRITE},
        }
        return Issuer(**{**given, **changed})

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked += 1
        await self.open.wait()
        body = self.document if isinstance(self.document, str) else json.dumps(self.document)
        return web.Response(text=body, status=self.status, headers=self.headers, content_type="application/json")


@asynccontextmanager
async def providing(port: int | None = None) -> AsyncIterator[IdentityProvider]:
    port = port or free_port()
    provider = IdentityProvider(f"http://127.0.0.1:{port}/jwks.json")
    app = web.Application()
    app.router.add_get("/jwks.json", provider.answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield provider
    finally:
        provider.open.set()
        await runner.cleanup()
