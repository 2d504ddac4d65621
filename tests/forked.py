"""Commands of the package as processes that are forked from one which has imported it: that starts them at once.

They are processes as any other, with an environment, a directory and a session of their own, and nothing of the package
has run before their command does. Tests of `runstream dev` and of the client start theirs as a shell does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import wait
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

IMPORTED = [
    "runstream.app",
    "runstream.cli",
    "runstream.commands.keys",
    "runstream.commands.runs",
    "runstream.doctor.examination",
    "runstream.providers.simulated",
    "runstream.worker",
]

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([__name__, *IMPORTED])
_one_at_a_time = threading.Lock()
"""A process's end can be asked for by one thread at a time, and each start asks for those of all."""


class ForkedCommand:
    """A `runstream` command that has been started; what it says goes to `output`, and its errors to `errors`."""

    def __init__(
        self,
        *arguments: str,
        directory: Path,
        environment: Mapping[str, str],
        output: Path,
        errors: Path | None = None,
    ) -> None:
        """Without `errors` they go to `output` too."""
        output.touch()
        given = (arguments, str(directory), dict(environment), str(output), errors and str(errors))
        self._process = _server.Process(target=_become, args=given, daemon=True)
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

    def send(self, number: int) -> None:
        """Send it a signal; nothing where it has ended."""
        if self.ended() is None:
            os.kill(self.pid, number)


def run(*arguments: str, directory: Path, environment: Mapping[str, str], seconds: float) -> CompletedProcess[str]:
    """Run a command to its end. Raises TimeoutError when that takes longer."""
    with TemporaryDirectory(prefix="runstream-command-") as name:
        output, errors = Path(name, "output"), Path(name, "errors")
        command = ForkedCommand(*arguments, directory=directory, environment=environment, output=output, errors=errors)
        try:
            code = command.wait(seconds)
        finally:
            command.send(signal.SIGKILL)
        return CompletedProcess(arguments, code, output.read_text(), errors.read_text())


def _become(
    arguments: tuple[str, ...], directory: str, environment: dict[str, str], output: str, errors: str | None
) -> None:
    os.setsid()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    _redirect(os.devnull, os.O_RDONLY, 0)
    _redirect(output, os.O_WRONLY, 1)
    if errors is None:
        os.dup2(1, 2)
    else:
        _redirect(errors, os.O_WRONLY | os.O_CREAT, 2)
    sys.argv = ["runstream", *arguments]
    from runstream.cli import main

    main()


def _redirect(path: str, flags: int, descriptor: int) -> None:
    opened = os.open(path, flags, 0o644)
    os.dup2(opened, descriptor)
    os.close(opened)
