from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from runstream.embedded.account import Account
from runstream.embedded.errors import EmbeddedError
from runstream.embedded.lock import ProcessLock
from runstream.embedded.place import home_for
from runstream.embedded.port import ports_to_try
from runstream.embedded.process import ServerProcess

START_TIMEOUT = 60.0
STOP_PATIENCE = 10.0
POLL = 0.01


class Server(ABC):
    """A server of ours on the loopback interface, with its data in a directory that outlives it.

    One process at a time may run a directory: its `owner.lock`. The server itself holds `server.lock`, so that one whose
    owner was killed is found, and is stopped before another is started.
    """

    name: ClassVar[str]
    stop_signals: ClassVar[Sequence[signal.Signals]]
    """Gentlest first; the first one is also sent when our process dies."""

    def __init__(self, directory: Path, *, port: int | None) -> None:
        self.directory = directory
        self.port = port
        self._asked_port = port
        self._process: ServerProcess | None = None
        self._account: Account | None = None
        self._home = directory
        self._owner: ProcessLock | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it answers, the password included; fixed once it was started."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make what must be there before the server can run; called with no server running."""

    @abstractmethod
    def _command(self, port: int) -> list[str]: ...

    @abstractmethod
    def _is_ready(self, process: ServerProcess) -> bool: ...

    def start(self) -> None:
        """Start it and return when it answers; raises EmbeddedError."""
        if self._process is not None:
            raise EmbeddedError(f"{self.name} in {self.directory} is running already.")
        try:
            self._account = Account.for_data(self.directory / "data")
            self._home = home_for(self.directory, self._account)
            self._own()
            lock = self._stop_orphan()
            try:
                self._prepare()
            finally:
                lock.release()
            self._process = self._launch()
        except OSError as error:
            raise EmbeddedError(
                f"{self.name} cannot use {self.directory}: {error.strerror or error}."
            ) from error
        finally:
            if self._process is None:
                self._disown()

    def stop(self) -> None:
        """Stop it in good order, its data written; harmless if it is not running."""
        if self._process is not None:
            self._process.stop((*self.stop_signals, signal.SIGKILL), patience=STOP_PATIENCE)
            self._process = None
        self._disown()

    def kill(self) -> None:
        """End it as a crash would, with SIGKILL; `start()` brings it back."""
        if self._process is not None:
            self._process.stop((signal.SIGKILL,), patience=STOP_PATIENCE)
            self._process = None
        self._disown()

    @property
    def running(self) -> bool:
        return self._process is not None and not self._process.ended()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EmbeddedError(f"{self.name} in {self.directory} is not running.")
        return self._process.pid

    @property
    def home(self) -> Path:
        """Where its files really are: `directory`, or what that is a link to; known once it was started."""
        return self._home

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _data(self) -> Path:
        return self._home / "data"

    @property
    def _log(self) -> Path:
        return self._home / "server.log"

    def _own(self) -> None:
        owner = ProcessLock(self._home / "owner.lock")
        if not owner.acquire():
            raise EmbeddedError(
                f"{self.name} in {self.directory} is in use by process {owner.holder()}: "
                "stop that first, or give another directory."
            )
        self._owner = owner

    def _disown(self) -> None:
        if self._owner is not None:
            self._owner.release()
            self._owner = None

    def _stop_orphan(self) -> ProcessLock:
        """Return the server's lock, taken; end a server that outlived its owner to get it."""
        lock = ProcessLock(self._home / "server.lock")
        for number in (*self.stop_signals, signal.SIGKILL):
            if lock.acquire():
                return lock
            if (orphan := lock.holder()) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, number)
            if lock.acquire(timeout=STOP_PATIENCE):
                return lock
        raise EmbeddedError(
            f"A {self.name} left in {self.directory}, process {lock.holder()}, does not end: end it by hand."
        )

    def _launch(self) -> ServerProcess:
        for port in ports_to_try(self._asked_port, self._home / "port"):
            lock = ProcessLock(self._home / "server.lock")
            if not lock.acquire(timeout=STOP_PATIENCE):
                raise EmbeddedError(f"{self.name} in {self.directory} is in use by process {lock.holder()}.")
            self.port = port
            process = ServerProcess(
                self._command(port),
                directory=self._data,
                log=self._log,
                lock=lock,
                death_signal=self.stop_signals[0],
                account=self._account,
            )
            if self._wait(process):
                (self._home / "port").write_text(str(port))
                return process
        raise EmbeddedError(f"{self.name} found no free port: its last answer was in {self._log}.")

    def _wait(self, process: ServerProcess) -> bool:
        """Return True when it answers, False when another program took its port first; raises EmbeddedError."""
        deadline = time.monotonic() + START_TIMEOUT
        try:
            while not self._is_ready(process):
                if process.ended():
                    break
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"{self.name} did not answer within {START_TIMEOUT:.0f} s: see {self._log}."
                    )
                time.sleep(POLL)
            else:
                return True
        except BaseException:
            process.stop((signal.SIGKILL,), patience=STOP_PATIENCE)
            raise
        output = process.output()
        if "Address already in use" in output and self._asked_port is None:
            return False
        raise EmbeddedError(f"{self.name} did not start ({last_line(output)}): see {self._log}.")

    def _password(self) -> str:
        """Return the password, made once; its file can be read by the server's account alone."""
        path = self._home / "password"
        if not path.exists() or not path.read_text():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(secrets.token_hex(24))
            self._give(path)
        return path.read_text()

    def _give(self, path: Path) -> None:
        if self._account is not None:
            self._account.owns(path)


def last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].strip().rstrip(".") if lines else "it said nothing"
