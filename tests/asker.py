"""Who asks a gateway for an answer, where no run does."""

from __future__ import annotations

from runstream.domain.errors import ProviderError
from runstream.domain.run import KeptAnswer
from runstream.domain.usage import Usage
from runstream.gateway.routes import Target


class Asker:
    """Notes which providers were asked, and by which names their answers could be read on; it reads none on itself."""

    kept = False

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.tried: list[str] = []
        self.names: list[str] = []

    def trying(self, target: Target, _: KeptAnswer | None) -> None:
        self.tried.append(target.provider)

    def resumable(self, _: Target, name: str) -> None:
        self.names.append(name)

    def keep(self) -> bool:
        return self.kept

    def failed(self, error: ProviderError) -> None: ...

    def not_resumed(self, error: Exception) -> None:
        raise AssertionError("nothing was to be resumed") from error
