"""What a running simulator counts and keeps."""

from collections import Counter
from typing import Any

from runstream.providers.simulated.calls import Calls
from runstream.providers.simulated.http import Connection
from runstream.providers.simulated.moderations import Judge
from runstream.providers.simulated.responses import KeptAnswers


class State:
    def __init__(self) -> None:
        self.clients: set[Connection] = set()
        self.calls: Counter[str] = Counter()
        self.record = Calls()
        self.kept = KeptAnswers()
        self.judge = Judge()
        self.connections = 0
        self.failed: Counter[bytes] = Counter()
        self.answered = 0
        self.open_streams = 0
        self.closed_by_client = 0

    def stats(self) -> dict[str, Any]:
        return {
            "calls": dict(self.calls),
            "tokens": self.record.spent(),
            "moderations": len(self.judge.asked),
            "open_streams": self.open_streams,
            "closed_by_client": self.closed_by_client,
            "connections": self.connections,
            "open_connections": len(self.clients),
        }

    def reset(self) -> None:
        self.calls.clear()
        self.record = Calls()
        self.kept.forget()
        self.judge = Judge()
        self.failed.clear()
        self.closed_by_client = self.connections = 0

    def opened(self, connection: Connection) -> None:
        self.clients.add(connection)
        self.connections += 1

    def closed(self, connection: Connection) -> None:
        self.clients.discard(connection)
