"""`runstream dev`: all of Runstream on one machine, from one command, until Ctrl-C."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TypeVar

from runstream.domain.errors import ConfigurationError
from runstream.embedded.child import Child, run_to_end
from runstream.embedded.errors import EmbeddedError
from runstream.embedded.lock import ProcessLock
from runstream.embedded.models import ModelChoice, choose_models
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
            _run(directory, host, _checked_port(host, port), stop, running)
    except StopAsked:
        return 0
    except (EmbeddedError, ConfigurationError) as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename or data}: {error.strerror or error}.")
    return 0


def _run(data: Path, host: str, port: int, stop: StopRequest, running: ExitStack) -> None:
    """Start one after the other what the next needs, and supervise; `running` stops them, last first."""
    _say("Starting Postgres, Valkey, a worker and the API.")
    choice = choose_models(
        configured=bool(load().providers), openai_key=os.environ.get("OPENAI_API_KEY"), free_port=free_port()
    )
    postgres = Postgres(data / "postgres")
    key_file = data / "key"
    if not (data / "postgres" / "data").exists():
        # a key outlives no database: only there is it known
        key_file.unlink(missing_ok=True)
    _begin(postgres, running, stop)
    valkey = _begin(Valkey(data / "valkey"), running, stop)
    environment = {
        "RUNSTREAM_LOG_FORMAT": "text",
        "RUNSTREAM_WORKER_GRACE": WORKER_GRACE,
        **os.environ,
        **choice.settings,
        "RUNSTREAM_DATABASE_URL": postgres.url,
        "RUNSTREAM_REDIS_URL": valkey.url,
        "RUNSTREAM_CONSOLE": "true",
    }
    run_to_end("migrate", environment=environment)
    stop.check()
    environment["RUNSTREAM_CONSOLE_KEY"] = key = _key(key_file, environment)
    children = [_begin(child, running, stop) for child in _children(data, host, port, choice, environment)]
    _wait_until_ready(host, port, children, stop)
    url = f"http://{_in_url(_reachable(host))}:{port}"
    parts: list[Part] = [*reversed(children), valkey, postgres]
    kept = [postgres.home, valkey.home]
    _say(welcome(url=url, key=key, provider=choice.notice, data=data, kept=kept, parts=parts))
    supervise(parts, stop, _say)
    _say("Stopping.")


def _children(data: Path, host: str, port: int, choice: ModelChoice, environment: Mapping[str, str]) -> Iterator[Child]:
    if choice.simulator_port is not None:
        simulate = ("simulate-provider", "--port", str(choice.simulator_port))
        yield Child("provider", *simulate, data=data, environment=environment)
    yield Child("worker", "worker", data=data, environment=environment)
    yield Child("api", "api", "--host", host, "--port", str(port), data=data, environment=environment)


def _begin(part: PartT, running: ExitStack, stop: StopRequest) -> PartT:
    stop.check()
    part.start()
    running.callback(part.stop)
    return part


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


def _key(path: Path, environment: Mapping[str, str]) -> str:
    """Return the page's API key, made once and kept where only we can read it."""
    if path.exists() and (kept := path.read_text().strip()):
        return kept
    printed = run_to_end("keys", "create", "--tenant", "dev", "--user", "dev", environment=environment)
    key = printed.split()[-1]
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(f"{key}\n")
    return key


def _wait_until_ready(host: str, port: int, children: Sequence[Child], stop: StopRequest) -> None:
    deadline = time.monotonic() + READY_TIMEOUT
    while (missing := _not_ready(host, port)) is not None:
        stop.check()
        for child in children:
            if not child.running:
                raise EmbeddedError(f"The {child.name} {child.ending()} ({child.last_words()}): see {child.log}.")
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"The API is not ready after {READY_TIMEOUT:.0f} s ({missing}): see {children[-1].log}."
            )
        time.sleep(POLL)


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
