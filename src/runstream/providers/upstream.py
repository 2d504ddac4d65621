"""HTTP to one provider, shared by its protocols: httpx's API over aiohttp's connections and C parser.

A token read this way costs a third of what httpx's own parser takes. Requests go to httpx's transport and not
through its client, whose cookies and redirects are nothing that a provider should have, and which doubles what a
call costs. The transport's names for failures are not used (a refused connection is a `ConnectTimeout` to it): what
went wrong is read from aiohttp's exception beneath.
"""

import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import cache
from types import SimpleNamespace
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from runstream.domain.errors import ProviderError, ProviderNotConnected, ProviderProtocolError, ProviderUnavailable

FAILURES = (httpx.HTTPError, aiohttp.ClientError, OSError)
"""What a request or a read may raise; `failure_of` names them."""

_KEPT_SECONDS = 55.0
"""A kept connection saves the next call a TLS handshake; from a minute on, firewalls forget an idle one unsaid."""

STALE = 0.5
"""Seconds, more than a round trip, in which a kept connection that the server had closed already says so."""

_attempt: ContextVar[SimpleNamespace] = ContextVar("attempt")


class Upstream:
    """A pool without a limit: how many calls run at a time is the gateway's to say."""

    def __init__(self, base_url: httpx.URL) -> None:
        proxy = _proxy_for(base_url)
        self._pooled = _transport(proxy, reuse=True)
        self._fresh = _transport(proxy, reuse=False)

    async def send(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None, connect: float
    ) -> httpx.Response:
        """The answer's head; the body is still to come, and the caller closes it.

        `connect` bounds name look-up, TCP and TLS together; the wait for the head is the caller's to bound.
        A kept connection that the server closed as we wrote to it is not the call's failure: nothing of an answer
        came, so the request goes out once more, on a new connection. One that is lost later is: the server may have
        begun to generate, and would again. Raises a `ProviderError`.
        """
        timeout = {"connect": connect, "pool": connect}
        request = httpx.Request(method, url, headers=headers, content=content, extensions={"timeout": timeout})
        attempt = SimpleNamespace(reused=False)
        _attempt.set(attempt)
        began = time.monotonic()
        try:
            return await self._pooled.handle_async_request(request)
        except FAILURES as error:
            at_once = time.monotonic() - began < STALE
            if not (attempt.reused and at_once and _disconnected(error)):
                raise failure_of(error) from error
        try:
            return await self._fresh.handle_async_request(request)
        except FAILURES as error:
            raise failure_of(error) from error

    async def aclose(self) -> None:
        await self._pooled.aclose()
        await self._fresh.aclose()


class Body(httpx.AsyncByteStream):
    """An answer's body as aiohttp reads it, without the generators that httpx' transport puts around it."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self.read: Callable[[], Awaitable[bytes]] = body._aiohttp_response.content.readany
        """What has come, as soon as something has; nothing at the end. Raises one of FAILURES."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while read := await self.read():
            yield read

    async def aclose(self) -> None:
        await self._body.aclose()


def failure_of(error: BaseException) -> ProviderError:
    """The error of the tree for what httpx or aiohttp raised. Its message has no address and no key in it."""
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ else error
    for kinds, failure, message in _FAILURES:
        if isinstance(cause, kinds):
            return failure(message)
    return ProviderProtocolError("The provider's answer is not HTTP.")


_FAILURES: tuple[tuple[tuple[type[Exception], ...], type[ProviderError], str], ...] = (
    ((aiohttp.ServerTimeoutError,), ProviderNotConnected, "No connection to the provider could be made in time."),
    ((aiohttp.ClientConnectorDNSError,), ProviderUnavailable, "The provider's host name does not resolve."),
    (
        (aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError, ssl.SSLError),
        ProviderUnavailable,
        "No TLS connection to the provider could be made.",
    ),
    ((aiohttp.ClientConnectorError,), ProviderUnavailable, "The provider could not be connected to."),
    (
        (aiohttp.ClientConnectionError, OSError),
        ProviderUnavailable,
        "The provider closed the connection before it answered.",
    ),
)
"""In this order: aiohttp's later classes are bases of its earlier ones."""


def _transport(proxy: httpx.Proxy | None, *, reuse: bool) -> AiohttpTransport:
    tls = _tls()

    def session() -> aiohttp.ClientSession:
        # Made when first used: aiohttp binds it to the running loop. Its cookies would be shared between tenants.
        pooling: dict[str, Any] = {"keepalive_timeout": _KEPT_SECONDS} if reuse else {"force_close": True}
        connector = aiohttp.TCPConnector(limit=0, ssl=tls, ttl_dns_cache=60, **pooling)
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trace_configs=[_reuse_trace()]
        )

    return _Transport(verify=tls, client=session, proxy=proxy)


class _Transport(AiohttpTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        response.stream = Body(response.stream)
        return response


@cache
def _tls() -> ssl.SSLContext:
    """Shared by all providers: loading the certificates takes tens of milliseconds."""
    return httpx.create_ssl_context()


def _reuse_trace() -> aiohttp.TraceConfig:
    async def reused(*_: Any) -> None:
        _attempt.get().reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(reused)
    return trace


def _disconnected(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) else error
    return isinstance(cause, aiohttp.ServerDisconnectedError | ConnectionError | aiohttp.ClientOSError) and not (
        isinstance(cause, aiohttp.ClientConnectorError)
    )


def _proxy_for(url: httpx.URL) -> httpx.Proxy | None:
    """As HTTP_PROXY, HTTPS_PROXY and NO_PROXY say; given a transport, httpx itself no longer looks at them."""
    proxies = getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    return httpx.Proxy(address) if address and not proxy_bypass(url.host) else None
