"""Who gives a command, and what may be printed there."""

import getpass
import os
import socket

from runstream import __version__
from runstream.domain.audit import Actor, ActorKind, bounded
from runstream.domain.ids import new_id


def at_terminal() -> Actor:
    """The login, on this machine; what one command does has one request id."""
    return bounded(
        ActorKind.COMMAND,
        _login(),
        new_id("req"),
        user=None,
        address=socket.gethostname(),
        user_agent=f"runstream/{__version__}",
    )


def plain(text: str) -> str:
    """What others wrote must not steer the operator's terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _login() -> str:
    """By its number where it has no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
