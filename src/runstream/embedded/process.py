from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runstream.embedded.account import Account, popen_account
from runstream.embedded.lock import ProcessLock

PR_SET_PDEATHSIG = 1
LOG_LIMIT = 4_000_000


class ServerProcess:
    """A server as a child that holds `lock`, in a session of its own: a terminal's Ctrl-C does not reach it.

    On Linux the kernel sends it `death_signal` when its parent ends; precisely, when the thread that started it ends.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        log: Path,
        lock: ProcessLock,
        death_signal: signal.Signals,
        environment: Mapping[str, str],
        account: Account | None = None,
    ) -> None:
        self._log = log
        with open(log, "ab", opener=_private) as output:
            if output.tell() > LOG_LIMIT:
                output.truncate(0)
            self._log_start = output.seek(0, os.SEEK_END)
            self._popen = subprocess.Popen(  # noqa: S603 - no shell, and nothing of a stranger's
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                preexec_fn=_child_setup(lock, death_signal),  # noqa: PLW1509 - it takes no lock
                **popen_account(account),
            )
        lock.release()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def ended(self) -> bool:
        return self._popen.poll() is not None

    def stop(self, signals: Sequence[signal.Signals], *, patience: float) -> None:
        """Send the signals, gentlest first, each `patience` seconds after the last, until it has ended."""
        for number in signals:
            if self.ended():
                return
            self._popen.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(patience)
        self._popen.wait(patience)

    def ending(self) -> str:
        """Return how it ended, to be put after "it"."""
        code = self._popen.poll()
        if code is None:
            return "runs"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def output(self) -> str:
        """Return what it has written since it was started."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")


def end_orphan(lock: ProcessLock, signals: Sequence[signal.Signals], *, patience: float) -> bool:
    """End a process that outlived its parent and still holds the lock; return whether the lock is free now."""
    free = lock.acquire()
    for number in signals:
        if free:
            break
        if (orphan := lock.holder()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, number)
        free = lock.acquire(timeout=patience)
    lock.release()
    return free


def last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].strip().rstrip(".") if lines else "it said nothing"


def server_environment() -> dict[str, str]:
    """Return an environment without the user's locale, PG* settings and secrets."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _child_setup(lock: ProcessLock, death_signal: signal.Signals) -> Callable[[], None]:
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    parent = os.getpid()

    def setup() -> None:
        lock.sign()
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return setup
