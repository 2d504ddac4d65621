"""Commands of the package as processes that are forked from one which has imported it: that starts them at once.

They are processes as any other, with an environment, a directory and a session of their own; nothing runs before the
command does. `runstream dev`, the installed wheel and the commands that people type are started as people start them.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import wait
from pathlib import Path

IMPORTED = ["runstream.app", "runstream.cli", "runstream.providers.simulated", "runstream.worker"]

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([__name__, *IMPORTED])
_one_at_a_time = threading.Lock()
"""A process's end can be asked for by one thread at a time, and each start asks for those of all."""


class ForkedCommand:
    """A `runstream` command that has been started; what it says goes to `log`."""

    def __init__(self, *arguments: str, directory: Path, environment: Mapping[str, str], log: Path) -> None:
        given = (arguments, str(directory), dict(environment), str(log))
        self._process = _server.Process(target=_run, args=given, daemon=True)
        with _one_at_a_time:
            self._process.start()
        assert self._process.pid
        self.pid: int = self._process.pid

    def ended(self) -> int | None:
        """Its exit code, less than 0 for a signal; None while it runs."""
        with _one_at_a_time:
            return self._process.exitcode

    def wait(self, seconds: float) -> int:
        """Its exit code, once it has ended. Raises TimeoutError."""
        wait([self._process.sentinel], seconds)
        if (code := self.ended()) is None:
            raise TimeoutError(f"process {self.pid} runs still, after {seconds} s")
        return code

    def signal(self, number: int) -> None:
        """Send it a signal; nothing where it has ended."""
        if self.ended() is None:
            os.kill(self.pid, number)


def _run(arguments: tuple[str, ...], directory: str, environment: dict[str, str], log: str) -> None:
    os.setsid()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    _redirect(os.devnull, os.O_RDONLY, 0)
    _redirect(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 1)
    os.dup2(1, 2)
    sys.argv = ["runstream", *arguments]
    from runstream.cli import main

    main()


def _redirect(path: str, flags: int, descriptor: int) -> None:
    opened = os.open(path, flags, 0o644)
    os.dup2(opened, descriptor)
    os.close(opened)
