from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

from runstream.embedded.errors import EmbeddedError

HOST = "127.0.0.1"
ATTEMPTS = 5


def ports_to_try(asked: int | None, kept: Path) -> Iterator[int]:
    """Yield the port asked for, or else the one kept from the last start if it is free, and then free ones.

    There are several because another program may take a free port before the server binds it. Raises EmbeddedError if
    the port asked for is in use.
    """
    if asked is not None:
        if not is_free(asked):
            raise EmbeddedError(f"Port {asked} on {HOST} is in use: stop what uses it or choose another.")
        yield asked
        return
    if (last := _kept(kept)) is not None and is_free(last):
        yield last
    for _ in range(ATTEMPTS):
        yield free_port()


def is_free(port: int, host: str = HOST) -> bool:
    """Return whether a server could bind the port now; lingering connections of an earlier one do not count."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError:
            return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _kept(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
