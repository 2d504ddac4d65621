"""`runstream dev`: all of Runstream on one machine, from one command, until Ctrl-C."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TypeVar

from runstream.domain.errors import ConfigurationError
from runstream.embedded.child import Child, run_to_end
from runstream.embedded.errors import EmbeddedError
from runstream.embedded.lock import ProcessLock
from runstream.embedded.models import ModelChoice, choose_models, is_configured
from runstream.embedded.port import free_port, is_free
from runstream.embedded.postgres import Postgres
from runstream.embedded.supervise import Part, StopAsked, StopRequest, supervise
from runstream.embedded.valkey import Valkey
from runstream.embedded.welcome import welcome
from runstream.settings import load

READY_TIMEOUT = 60.0
PROBE_TIMEOUT = 5.0
POLL = 0.05
WORKER_GRACE = "1"
"""Seconds: whoever presses Ctrl-C waits, and what was not finished is taken up at the next start."""
OK = 200
PartT = TypeVar("PartT", bound=Part)


def run_dev(*, data: Path, host: str, port: int) -> int:
    """Run Postgres, Valkey, a provider if none is set, a worker and the API; return the exit code.

    Ctrl-C, SIGTERM and the terminal's end stop all of it in the opposite order, and that is no failure. What cannot be
    done is told on stderr in one sentence, with nothing left running. Must be called from the main thread.
    """
    stop = StopRequest()
    try:
        with stop.listening(), _data_directory(data.absolute()) as directory, ExitStack() as running:
            _Dev(directory, host, _checked_port(host, port), stop, running).run()
    except StopAsked:
        return 0
    except (EmbeddedError, ConfigurationError) as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename or data}: {error.strerror or error}.")
    return 0


@dataclass(frozen=True)
class _Dev:
    data: Path
    host: str
    port: int
    stop: StopRequest
    running: ExitStack
    """Stops what was started, last first."""

    def run(self) -> None:
        """Start one after the other what the next needs, and see that all of it runs until it is to stop."""
        _say("Starting Postgres, Valkey, a worker and the API.")
        openai_key = os.environ.get("OPENAI_API_KEY")
        choice = choose_models(configured=is_configured(load()), openai_key=openai_key, free_port=free_port())
        self._forget_key_of_lost_data()
        postgres = self._begin(Postgres(self.data / "postgres"))
        valkey = self._begin(Valkey(self.data / "valkey"))
        environment = _environment(choice, postgres, valkey)
        children = list(self._begin_children(choice, environment))
        self._wait_until_ready(children)
        parts: list[Part] = [*reversed(children), valkey, postgres]
        url = f"http://{_in_url(_reachable(self.host))}:{self.port}"
        kept = [postgres.home, valkey.home]
        key = self._key(environment)
        self._note(choice, {**environment, "RUNSTREAM_URL": url})
        _say(welcome(url=url, key=key, provider=choice.notice, data=self.data, kept=kept, parts=parts))
        supervise(parts, self.stop, _say)
        _say("Stopping.")

    def _begin_children(self, choice: ModelChoice, environment: Mapping[str, str]) -> Iterator[Child]:
        """Each as soon as it can be: they take longer to load than to start."""
        if choice.simulator_port is not None:
            yield self._begin_child(
                "provider", "simulate-provider", port=choice.simulator_port, environment=environment
            )
        run_to_end("migrate", environment=environment)
        yield self._begin_child("worker", "worker", environment=environment)
        serving = {**environment, "RUNSTREAM_CONSOLE": "true", "RUNSTREAM_CONSOLE_KEY": self._key(environment)}
        yield self._begin_child("api", "api", "--host", self.host, port=self.port, environment=serving)

    def _begin_child(self, name: str, *command: str, environment: Mapping[str, str], port: int | None = None) -> Child:
        at = () if port is None else ("--port", str(port))
        return self._begin(Child(name, *command, *at, data=self.data, environment=environment))

    def _begin(self, part: PartT) -> PartT:
        self.stop.check()
        part.start()
        self.running.callback(part.stop)
        return part

    @property
    def _key_file(self) -> Path:
        return self.data / "key"

    def _key(self, environment: Mapping[str, str]) -> str:
        """Return the page's API key, made once and kept where only we can read it."""
        if self._key_file.exists() and (kept := self._key_file.read_text().strip()):
            return kept
        printed = run_to_end("keys", "create", "--tenant", "dev", "--user", "dev", environment=environment)
        _write_private(self._key_file, f"{printed.split()[-1]}\n")
        return self._key(environment)

    def _note(self, choice: ModelChoice, environment: Mapping[str, str]) -> None:
        """Leave for a shell what other commands need to be of this installation; no key of a provider's is in it."""
        names = ["RUNSTREAM_DATABASE_URL", "RUNSTREAM_REDIS_URL", "RUNSTREAM_URL"]
        names += choice.settings if choice.simulator_port is not None else []
        _write_private(
            self.data / "env", "".join(f"export {name}={shlex.quote(environment[name])}\n" for name in names)
        )

    def _forget_key_of_lost_data(self) -> None:
        """A new database does not know the key of one that was deleted."""
        if not (self.data / "postgres" / "data").exists():
            self._key_file.unlink(missing_ok=True)

    def _wait_until_ready(self, children: Sequence[Child]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        while (missing := _not_ready(self.host, self.port)) is not None:
            self.stop.check()
            for child in children:
                if not child.running:
                    raise EmbeddedError(f"The {child.name} {child.ending()} ({child.last_words()}): see {child.log}.")
            if time.monotonic() > deadline:
                raise EmbeddedError(f"The API is not ready ({missing}): see {self.data}/*.log.")
            time.sleep(POLL)


def _environment(choice: ModelChoice, postgres: Postgres, valkey: Valkey) -> dict[str, str]:
    return {
        "RUNSTREAM_LOG_FORMAT": "text",
        "RUNSTREAM_WORKER_GRACE": WORKER_GRACE,
        "RUNSTREAM_WEBHOOK_PRIVATE": "true",
        **os.environ,
        **choice.settings,
        "RUNSTREAM_DATABASE_URL": postgres.url,
        "RUNSTREAM_REDIS_URL": valkey.url,
    }


def _write_private(path: Path, text: str) -> None:
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)


@contextmanager
def _data_directory(data: Path) -> Iterator[Path]:
    """Make the directory, which git ignores, and hold it against a second start."""
    lock = ProcessLock(data / "dev.lock")
    try:
        # root's servers do not run as root, and must be able to enter
        data.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
        (data / ".gitignore").write_text("*\n")
        free = lock.acquire()
    except OSError as error:
        raise EmbeddedError(f"{data} cannot hold the data ({error.strerror}): choose another with --data.") from error
    if not free:
        raise EmbeddedError(
            f"{data} is in use by another `runstream dev`, process {lock.holder()}: "
            "stop that first, or give this one a directory of its own with --data."
        )
    lock.sign()
    try:
        yield data
    finally:
        lock.release()


def _checked_port(host: str, port: int) -> int:
    if not 0 <= port < 2**16:
        raise EmbeddedError(f"{port} is no port: give one from 1 to 65535 with --port.")
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError) as error:
        raise EmbeddedError(f"{host!r} is no address of this machine: give another with --host.") from error
    if port == 0:
        return free_port()
    if not is_free(port, host):
        raise EmbeddedError(f"Port {port} on {host} is in use: stop what uses it, or give another with --port.")
    return port


def _not_ready(host: str, port: int) -> str | None:
    """Return what the API says is not ready, None if all is; the environment's proxies are not asked."""
    connection = HTTPConnection(_reachable(host), port, timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return None if response.status == OK else response.read().decode(errors="replace")
    except (OSError, HTTPException) as error:
        return str(error)
    finally:
        connection.close()


def _reachable(host: str) -> str:
    """Return an address to connect to a server that listens on every one."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - not bound to


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _failed(reason: str) -> int:
    print(f"runstream dev: {reason}", file=sys.stderr)
    return 1


def _say(text: str) -> None:
    print(text, flush=True)
