from __future__ import annotations

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
from runstream.embedded.process import ServerProcess, end_orphan, last_line, server_environment

START_TIMEOUT = 60.0
STOP_PATIENCE = 10.0
POLL = 0.01


class Server(ABC):
    """A server on the loopback interface whose data, in a directory, outlives it.

    One process at a time may run a directory: it holds `owner.lock`. The server itself holds `server.lock`, so that one
    whose owner was killed is found, and is stopped before the next is started. The methods are called from one
    thread, which must live as long as the server runs.
    """

    name: ClassVar[str]
    stop_signals: ClassVar[Sequence[signal.Signals]]
    """Gentlest first; the first one is also sent when our process dies."""

    def __init__(self, directory: Path, *, port: int | None) -> None:
        self.directory = directory.absolute()
        self.home = self.directory
        """Where the files really are: `directory`, or what it is a link to; known once it was started."""
        self._asked_port = port
        self._port = 0
        self._password = ""
        self._account: Account | None = None
        self._process: ServerProcess | None = None
        self._owner: ProcessLock | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it answers, the password included; known once it was started."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make what must be there before the server can run; called while no server runs."""

    @abstractmethod
    def _command(self, port: int) -> list[str]: ...

    @abstractmethod
    def _is_ready(self, process: ServerProcess) -> bool: ...

    def start(self) -> None:
        """Start it and return when it answers; raises EmbeddedError.

        Its first start settles its URL: one that ended is started again at the same port, or not at all.
        """
        if self.running:
            raise EmbeddedError(f"{self.name} in {self.directory} was started already.")
        self.stop()
        try:
            self._account = Account.for_data(self.directory / "data")
            self.home = home_for(self.directory, self._account)
            self._own()
            if not end_orphan(self._server_lock(), self._signals, patience=STOP_PATIENCE):
                raise EmbeddedError(f"A {self.name} left in {self.directory} does not end: end it by hand.")
            self._password = self._kept_password()
            self._prepare()
            self._process = self._launch()
        except OSError as error:
            reason = error.strerror or error
            raise EmbeddedError(f"{self.name} cannot use {self.directory}: {reason}.") from error
        finally:
            if self._process is None:
                self._disown()

    def stop(self) -> None:
        """Stop it in good order, its data written; harmless if it is not running."""
        self._end(self._signals)

    def kill(self) -> None:
        """End it as a crash would, with SIGKILL; `start()` brings it back."""
        self._end((signal.SIGKILL,))

    @property
    def running(self) -> bool:
        return self._process is not None and not self._process.ended()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EmbeddedError(f"{self.name} in {self.directory} is not running.")
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def ending(self) -> str:
        """Return how it ended, to be put after "it"."""
        return self._process.ending() if self._process is not None else "was stopped"

    @property
    def _signals(self) -> Sequence[signal.Signals]:
        return (*self.stop_signals, signal.SIGKILL)

    @property
    def _data(self) -> Path:
        return self.home / "data"

    @property
    def _log(self) -> Path:
        return self.home / "server.log"

    def _server_lock(self) -> ProcessLock:
        return ProcessLock(self.home / "server.lock")

    def _own(self) -> None:
        owner = ProcessLock(self.home / "owner.lock")
        if not owner.acquire():
            raise EmbeddedError(
                f"{self.name} in {self.directory} is run by process {owner.holder()}: "
                "stop that first, or give another directory."
            )
        owner.sign()
        self._owner = owner

    def _disown(self) -> None:
        if self._owner is not None:
            self._owner.release()
            self._owner = None

    def _launch(self) -> ServerProcess:
        for port in ports_to_try(self._asked_port, self.home / "port"):
            self._port = port
            lock = self._server_lock()
            if not lock.acquire(timeout=STOP_PATIENCE):
                raise EmbeddedError(f"{self.name} in {self.directory} is run by process {lock.holder()}.")
            process = ServerProcess(
                self._command(port),
                directory=self._data,
                log=self._log,
                lock=lock,
                death_signal=self.stop_signals[0],
                environment=server_environment(),
                account=self._account,
            )
            if self._becomes_ready(process):
                (self.home / "port").write_text(str(port))
                self._asked_port = port
                return process
            if self._asked_port is not None or "Address already in use" not in process.output():
                break
        raise EmbeddedError(f"{self.name} did not start ({last_line(process.output())}): see {self._log}.")

    def _becomes_ready(self, process: ServerProcess) -> bool:
        """Wait until it answers; return False if it ended or takes too long, and is ended, instead."""
        deadline = time.monotonic() + START_TIMEOUT
        ready = False
        try:
            while not ready and not process.ended() and time.monotonic() < deadline:
                ready = self._is_ready(process)
                if not ready:
                    time.sleep(POLL)
        finally:
            if not ready:
                process.stop((signal.SIGKILL,), patience=STOP_PATIENCE)
        return ready

    def _end(self, signals: Sequence[signal.Signals]) -> None:
        if self._process is not None:
            self._process.stop(signals, patience=STOP_PATIENCE)
            self._process = None
        self._disown()

    def _kept_password(self) -> str:
        """Return the password, made at the first start; its file can be read by the server's account alone."""
        path = self.home / "password"
        if not path.exists() or not path.read_text():
            self._write_private(path, secrets.token_hex(24))
        return path.read_text()

    def _write_private(self, path: Path, text: str) -> None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        self._give(path)

    def _give(self, path: Path) -> None:
        if self._account is not None:
            self._account.owns(path)
