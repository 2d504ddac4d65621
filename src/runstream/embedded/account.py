"""Whom the servers run as: Postgres refuses to run as root, and neither server needs to."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

NOBODY = 65534
PROBE_TIMEOUT = 10


class PopenAccount(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """The user that root starts a server as; `None` in its place everywhere means the user we are."""

    uid: int
    gid: int

    @classmethod
    def for_data(cls, data: Path) -> Account | None:
        """Return the owner of existing data, else nobody; None unless we are root."""
        if os.geteuid() != 0:
            return None
        if data.exists() and (owner := data.stat()).st_uid != 0:
            return cls(owner.st_uid, owner.st_gid)
        try:
            nobody = pwd.getpwnam("nobody")
        except KeyError:
            return cls(NOBODY, NOBODY)
        return cls(nobody.pw_uid, nobody.pw_gid)

    def reaches(self, path: Path) -> bool:
        """Return whether the account may enter the directory, or run the program, at `path`.

        Asks the kernel rather than adds up modes: access lists and mounts have a say too.
        """
        probe = ["/bin/sh", "-c", 'test -x "$0" && { test -d "$0" || test -r "$0"; }', str(path)]
        done = subprocess.run(probe, cwd="/", check=False, timeout=PROBE_TIMEOUT, **popen_account(self))  # noqa: S603
        return done.returncode == 0

    def owns(self, path: Path) -> None:
        os.chown(path, self.uid, self.gid)


def popen_account(account: Account | None) -> PopenAccount:
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}
