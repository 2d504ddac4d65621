"""What acceptance tests put between the system and themselves: a browser, a network that breaks, Node's packages."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, Playwright, async_playwright
from tests import forked

import npm
from stack import Command, Stack

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--no-first-run",
)
NPM_PACKAGES = ("eventsource@4.1.1", "@microsoft/fetch-event-source@2.0.1")
INSTALL_TIMEOUT = 300
DEADLINE = 60


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium, which takes every name below `.test` for this machine."""
    async with async_playwright() as playwright:
        options = [*CHROMIUM_OPTIONS, "--host-resolver-rules=MAP *.test 127.0.0.1"]
        browser = await playwright.chromium.launch(executable_path=_chromium(playwright), args=options)
        yield browser
        await browser.close()


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser profile of the test's own. No script of a page may fail, nor try what its policy forbids."""
    context = await browser.new_context()
    failures: list[str] = []
    context.on("weberror", lambda failure: failures.append(str(failure.error)))
    context.on("console", lambda line: "Content Security Policy" in line.text and failures.append(line.text))
    yield context
    await context.close()
    assert failures == []


def _chromium(playwright: Playwright) -> str:
    if found := _installed_chromium(playwright):
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        with npm.one_at_a_time("apt"):
            for command in ("update", "install -y --no-install-recommends chromium"):
                subprocess.run(["apt-get", *command.split()], capture_output=True, timeout=INSTALL_TIMEOUT, check=False)
    if found := _installed_chromium(playwright):
        return found
    pytest.fail(
        "The page's tests need a Chromium: install one (`apt-get install chromium`, or `uv run playwright install "
        "chromium`), or name its executable in RUNSTREAM_CHROMIUM."
    )


def _installed_chromium(playwright: Playwright) -> str | None:
    candidates = [os.environ.get("RUNSTREAM_CHROMIUM"), *CHROMIUM_NAMES, playwright.chromium.executable_path]
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


class Network:
    """A way to a server that can be broken: what is open is cut, and nothing gets through until it is mended."""

    def __init__(self, host: str, port: int) -> None:
        self.connections = 0
        self._reached = asyncio.Event()
        self._target = (host, port)
        self._open: set[asyncio.StreamWriter] = set()
        self._broken = False

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset every open connection; new ones get through."""
        self._reached.clear()
        for writer in self._open:
            writer.transport.abort()

    async def reached_again(self) -> None:
        """Wait for the next connection after a cut."""
        async with asyncio.timeout(DEADLINE):
            await self._reached.wait()

    def break_(self) -> None:
        self._broken = True
        self.cut()

    def mend(self) -> None:
        self._broken = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._broken:
            writer.transport.abort()
            return
        self.connections += 1
        self._reached.set()
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, upstream_writer}
        self._open |= both
        try:
            await asyncio.gather(_pump(reader, upstream_writer), _pump(upstream_reader, writer))
        finally:
            self._open -= both
            for each in both:
                each.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, and the end when it does."""
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


@pytest.fixture
async def network(stack: Stack) -> AsyncIterator[Network]:
    """The way to the API; its `url` stands for the API's own."""
    target = urlsplit(stack.url)
    network = Network(target.hostname, target.port)
    await network.start()
    yield network
    await network.stop()


@pytest.fixture
async def api(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """The API, asked with the page's own key."""
    headers = {"Authorization": f"Bearer {stack.key}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=DEADLINE) as client:
        yield client


@pytest.fixture
def command(stack: Stack, tmp_path: Path) -> Command:
    """Runs a command on the shared stack, but for what is given: `command("migrate", database_url=...)`."""

    def run(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        given = {f"RUNSTREAM_{name.upper()}": value for name, value in changed.items()}
        return forked.run(*arguments, directory=tmp_path, environment={**stack.environment, **given}, seconds=DEADLINE)

    return run


@pytest.fixture(scope="session")
def node() -> str:
    return npm.node()


@pytest.fixture(scope="session")
def npm_packages(node: str) -> Path:
    """The directory in which the npm clients have been installed."""
    return npm.installed(*NPM_PACKAGES)
