"""Where a server's files are, so that the account it runs as reaches them."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from runstream.embedded.account import Account
from runstream.embedded.errors import EmbeddedError

ROOT_PLACES = (Path("/var/lib/runstream"), Path("/var/tmp/runstream"))  # noqa: S108 - used if root owns it


def home_for(directory: Path, account: Account | None) -> Path:
    """Return the directory that really holds the files; it exists afterwards.

    That is `directory` itself wherever possible. When root asks for one below a directory that only root may read,
    the files are kept in `/var/lib/runstream` and `directory` becomes a symbolic link to them. Whoever deletes
    that link has deleted the data: the next start begins anew.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    if account is None:
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory
    if directory.is_symlink():
        return _enterable(directory.resolve())
    if account.reaches(directory if directory.exists() else directory.parent):
        return _enterable(directory)
    if directory.exists() and any(directory.iterdir()):
        raise EmbeddedError(f"The owner of the data in {directory} cannot reach it: open the directories above.")
    return _elsewhere(directory, account)


def root_place(account: Account) -> Path:
    """Return a directory that only root writes to and the account reaches."""
    for place in ROOT_PLACES:
        try:
            place.mkdir(parents=True, exist_ok=True)
            status = place.stat()
            if status.st_uid != 0 or status.st_mode & 0o022:
                continue
            place.chmod(0o755)
        except OSError:
            continue
        if account.reaches(place):
            return place
    tried = " nor ".join(map(str, ROOT_PLACES))
    raise EmbeddedError(f"Neither {tried} can hold the data of root's servers: run as an ordinary user.")


def _elsewhere(directory: Path, account: Account) -> Path:
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    home = root_place(account) / f"{directory.name}-{digest}"
    if home.exists():
        shutil.rmtree(home)
    _enterable(home)
    if directory.exists():
        directory.rmdir()
    directory.symlink_to(home)
    return home


def _enterable(home: Path) -> Path:
    """Root goes on owning it, so that a server that was taken over cannot plant links for root to write through."""
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711)
    return home
