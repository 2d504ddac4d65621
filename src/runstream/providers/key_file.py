"""Keys in a file, as Kubernetes and Docker mount secrets: one a line, read again when it changes."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from runstream.domain.errors import ConfigurationError

_LOOK = 1.0
"""Seconds between two looks at whether it changed."""
_LARGEST = 1_000_000
"""Bytes. A larger file is none of keys."""

log = structlog.get_logger(__name__)


class KeyFile:
    """Blank lines, and those that begin with `#`, count nothing. What cannot be used leaves the keys as they were."""

    def __init__(self, provider: str, path: str, *, now: Callable[[], float] = time.monotonic) -> None:
        """`now` is in seconds. Raises ConfigurationError where there is no key to begin with."""
        self._provider = provider
        self._path = Path(path)
        self._now = now
        self._looked_at = now()
        self._seen = self._signature()
        try:
            self.keys: Sequence[str] = read_keys(self._path)
        except Unusable as error:
            raise ConfigurationError(
                f"The provider '{provider}' has no keys from its api_keys_file: {error}."
            ) from None

    def changed(self) -> bool:
        """Whether there are other keys than before. Looks at most once a second, and reads only what is new."""
        now = self._now()
        if now - self._looked_at < _LOOK:
            return False
        self._looked_at = now
        signature = self._signature()
        if signature == self._seen:
            return False
        self._seen = signature
        try:
            keys = read_keys(self._path)
        except Unusable as error:
            log.warning("keys_file_not_used", provider=self._provider, error=str(error))
            return False
        changed, self.keys = keys != self.keys, keys
        return changed

    def _signature(self) -> tuple[int, ...] | None:
        """What is another one when the file was written, replaced, or linked to another."""
        try:
            found = os.stat(self._path)
        except (OSError, ValueError):
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


class Unusable(Exception):
    """Says why, and nothing of what the file holds."""


def read_keys(path: Path) -> Sequence[str]:
    """Raises Unusable."""
    try:
        with path.open("rb") as file:
            read = file.read(_LARGEST + 1)
    except ValueError:
        raise Unusable("it has no name that a file can have") from None
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}") from None
    if len(read) > _LARGEST:
        raise Unusable(f"{path} is larger than {_LARGEST} bytes")
    lines = [line.strip() for line in read.decode("latin-1").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise Unusable(f"{path} holds no key")
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise Unusable(f"{path} has a line that is no key")
    return keys
