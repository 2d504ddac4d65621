"""Node, and packages from npm, for tests of and with other people's JavaScript."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

INSTALL_TIMEOUT = 300


def node() -> str:
    """Node's path. Without it the test is skipped, with the reason; in CI it fails."""
    if found := shutil.which("node"):
        return found
    sentence = "This test needs Node >= 20 (`node` and `npm`) on the PATH."
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)


def installed(*packages: str) -> Path:
    """The directory in which these packages, each with its version, are installed; kept from session to session."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runstream-tests"
    cache.mkdir(parents=True, exist_ok=True)
    done = cache / "-".join(name.replace("/", "-") for name in packages)
    with one_at_a_time("npm"):
        if not done.exists():
            unfinished = tempfile.mkdtemp(dir=cache)
            _install(unfinished, packages)
            os.rename(unfinished, done)
    return done


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Hold a lock against the other test processes of this machine."""
    path = Path(tempfile.gettempdir(), f"runstream-test-{os.geteuid()}-{name}.lock")
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(directory: str, packages: tuple[str, ...]) -> None:
    command = ["npm", "install", "--prefix", directory, "--no-audit", "--no-fund", "--ignore-scripts", *packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False)
    if done.returncode:
        pytest.fail(f"npm could not install {' and '.join(packages)}: {done.stderr.strip()}")
