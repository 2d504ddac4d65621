"""The servers' programs, as their wheels brought them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from runstream.embedded.account import Account
from runstream.embedded.errors import EmbeddedError
from runstream.embedded.place import root_place


def program(distribution: str, package: str, pattern: str, account: Account | None) -> Path:
    """Return the path of the wheel's program that matches the glob `pattern` below its package.

    The package is found, not imported: importing one of these wheels may have effects. When the account cannot
    read where it is installed, the package is copied, once a version, to where it can.
    """
    installed = _installed(distribution, package)
    found = _find(installed, pattern, distribution)
    if account is None or account.reaches(found):
        return found
    return _find(_copied(distribution, installed, account), pattern, distribution)


def _installed(distribution: str, package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(f"{distribution} is not installed: `pip install 'runstream[embedded]'` brings it.")
    return Path(spec.submodule_search_locations[0])


def _find(package: Path, pattern: str, distribution: str) -> Path:
    for found in sorted(package.glob(pattern)):
        return found
    raise EmbeddedError(f"{distribution} holds no server for this system: give the URL of a running one.")


def _copied(distribution: str, installed: Path, account: Account) -> Path:
    """Copy under another name and rename, so that a copy that exists is complete."""
    place = root_place(account)
    copy = place / f"{distribution}-{importlib.metadata.version(distribution)}"
    if not copy.is_dir():
        unfinished = Path(tempfile.mkdtemp(prefix=f".{distribution}-", dir=place))
        try:
            # the programs look for their shared libraries in a sibling folder
            for folder in (installed, installed.with_name(f"{installed.name}.libs")):
                if folder.is_dir():
                    shutil.copytree(folder, unfinished / folder.name, symlinks=True)
            _open_to_all(unfinished)
            if not copy.is_dir():
                unfinished.rename(copy)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return copy / installed.name


def _open_to_all(tree: Path) -> None:
    tree.chmod(0o755)
    for folder, folders, files in os.walk(tree):
        for name in folders + files:
            path = Path(folder, name)
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
