from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from runstream.embedded.errors import EmbeddedError
from runstream.embedded.lock import ProcessLock
from runstream.embedded.process import ServerProcess, end_orphan, last_line

SIGNALS = (signal.SIGTERM, signal.SIGKILL)
STOP_PATIENCE = 10.0
COMMAND_TIMEOUT = 120


class Child:
    """One of runstream's own long-running commands as a process; its output goes to `<data>/<name>.log`.

    `<data>/<name>.lock` is held by the process itself, so that one left over from a killed parent is ended first.
    """

    def __init__(self, name: str, *arguments: str, data: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = data / f"{name}.log"
        self._lock = data / f"{name}.lock"
        self._command = command(*arguments)
        self._environment = environment
        self._process: ServerProcess | None = None

    def start(self) -> None:
        lock = ProcessLock(self._lock)
        if not end_orphan(lock, SIGNALS, patience=STOP_PATIENCE) or not lock.acquire(timeout=STOP_PATIENCE):
            raise EmbeddedError(f"An earlier {self.name}, process {lock.holder()}, does not end: end it by hand.")
        self._process = ServerProcess(
            self._command,
            directory=Path.cwd(),
            log=self.log,
            lock=lock,
            death_signal=SIGNALS[0],
            environment=self._environment,
        )

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(SIGNALS, patience=STOP_PATIENCE)
            self._process = None

    @property
    def running(self) -> bool:
        return self._process is not None and not self._process.ended()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EmbeddedError(f"The {self.name} is not running.")
        return self._process.pid

    def ending(self) -> str:
        """Return how it ended, to be put after "it"."""
        return self._process.ending() if self._process is not None else "was stopped"

    def last_words(self) -> str:
        return last_line(self._process.output()) if self._process is not None else ""


def run_to_end(*arguments: str, environment: Mapping[str, str]) -> str:
    """Run one of runstream's commands and return what it printed; a failure is told in its own last words."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and nothing of a stranger's
            command(*arguments),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise EmbeddedError(f"`runstream {' '.join(arguments)}` took over {COMMAND_TIMEOUT} s.") from error
    if done.returncode != 0:
        raise EmbeddedError(f"`runstream {' '.join(arguments)}` failed: {last_line(done.stderr or done.stdout)}.")
    return done.stdout


def command(*arguments: str) -> list[str]:
    """Return the command as this very installation's; -P, lest a module in the current directory take its place."""
    return [sys.executable, "-P", "-m", "runstream", *arguments]
