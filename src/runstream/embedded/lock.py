from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

POLL = 0.02


class ProcessLock:
    """A lock file that names the process it was last locked by.

    The lock belongs to the open file, so it ends with the last process that has it open, however that ends: nothing
    stale is ever left. A child that inherited `fileno()` goes on holding it after our `release()`. The file is
    never removed, for another process may be waiting on it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, *, timeout: float = 0) -> bool:
        """Take the lock, or return False when another process still holds it after `timeout` seconds."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() >= deadline:
                os.close(fd)
                return False
            time.sleep(POLL)
        self._fd = fd
        return True

    def sign(self) -> None:
        """Name the calling process as the holder; a child does so itself, between fork and exec."""
        os.ftruncate(self.fileno(), 0)
        os.pwrite(self.fileno(), b"%d" % os.getpid(), 0)

    def holder(self) -> int | None:
        """Return the id of the process that last signed, whether it still holds the lock or not."""
        try:
            return int(self.path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def fileno(self) -> int:
        if self._fd is None:
            raise ValueError(f"{self.path} is not locked by this process")
        return self._fd

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
