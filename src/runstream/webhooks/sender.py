"""One POST to an address that a tenant gave: to the internet and nowhere else, within a set time, and not read."""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult

from runstream.providers.failures import retry_after
from runstream.webhooks.addresses import is_public

_CONNECT = 5.0
"""Seconds for name look-up, TCP and TLS together."""
_LONGEST_REST = 24 * 3600.0
_HEADERS = {"Content-Type": "application/json", "User-Agent": "Runstream"}

Lookup = Callable[..., list[tuple[Any, ...]]]
"""As `socket.getaddrinfo`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The receiver's status; where there was none, `error` says why. `retry_after` is in seconds."""

    seconds: float
    status: int | None = None
    error: str | None = None
    retry_after: float | None = None

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 - all that HTTP calls a success


class Sender:
    """Each request has a connection of its own, whose address is looked at as it is made: a name that is resolved
    to another address later is no way around that. Redirects are not followed, and proxies that the environment names
    are not asked: they would connect wherever they are told to. What is answered beside the head is not read."""

    def __init__(self, *, timeout: float, private: bool, lookups: int, lookup: Lookup = socket.getaddrinfo) -> None:
        """`timeout`, in seconds, bounds a request as a whole. With `private`, all addresses may be sent to.

        `lookups` is how many names are looked up at once. To be made in a loop.
        """
        self._timeout = timeout
        self._private = private
        self._resolver = _Resolver(lookups, lookup)
        connector = aiohttp.TCPConnector(
            limit=0,
            ssl=httpx.create_ssl_context(),
            force_close=True,
            use_dns_cache=False,
            resolver=self._resolver,
            socket_factory=self._socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=min(_CONNECT, timeout)),
            auto_decompress=False,
            trust_env=False,
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Never raises for what a receiver does."""
        began = time.monotonic()
        status, error, rest = None, None, None
        try:
            async with asyncio.timeout(self._timeout):
                sent = self._session.post(url, data=body, headers={**_HEADERS, **headers}, allow_redirects=False)
                async with sent as response:
                    status, rest = response.status, retry_after(response.headers, time.time())
                    response.close()
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            error = _named(failure)
        rest = None if rest is None else min(rest, _LONGEST_REST)
        return Answer(round(time.monotonic() - began, 3), status, error if status is None else None, rest)

    async def aclose(self) -> None:
        await self._session.close()
        await self._resolver.close()

    def _socket(self, to: Any) -> socket.socket:
        """For the very address that is then connected to."""
        family, kind, protocol, _, address = to
        if not (self._private or is_public(address[0])):
            raise _NotPublic("not an address of the internet")
        return socket.socket(family, kind, protocol)


class _NotPublic(OSError):
    """The request would have gone to an address that is not of the internet."""


class _Resolver(AbstractResolver):
    """Asks the system in threads of its own: names whose servers do not answer hold up no look-up but of their kind."""

    def __init__(self, threads: int, lookup: Lookup) -> None:
        self._threads = ThreadPoolExecutor(threads, "webhook-names")
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        ask = partial(self._lookup, host, port, family=family, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [
            ResolveResult(
                hostname=host, host=address[0], port=port, family=kind, proto=protocol, flags=socket.AI_NUMERICHOST
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _named(failure: Exception) -> str:
    """Of a closed set, with nothing in it that the receiver said."""
    if isinstance(failure, aiohttp.ClientConnectorDNSError):
        return "name_not_resolved"
    if isinstance(failure, aiohttp.ClientConnectorError) and isinstance(failure.os_error, _NotPublic):
        return "address_not_allowed"
    for kinds, name in _ERRORS:
        if isinstance(failure, kinds):
            return name
    return "not_http"


_ERRORS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((TimeoutError,), "timeout"),
    ((aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError), "tls_failed"),
    ((aiohttp.ClientConnectorError,), "not_connected"),
    ((aiohttp.InvalidURL, ValueError), "address_not_allowed"),
    ((aiohttp.ClientConnectionError, OSError), "disconnected"),
)
"""In this order: some of the first are also of the last kinds."""
