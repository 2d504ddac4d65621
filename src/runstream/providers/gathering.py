"""What the events of one answer add up to, whatever the protocol."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from runstream.domain.errors import ProviderError
from runstream.providers.base import Finished, Piece
from runstream.providers.pieces import Pieces


class Gathering(ABC):
    """Gathers one answer; its protocol's class says what the events mean.

    What failed is kept for the caller to raise once the pieces before it have been given out.
    """

    def __init__(self) -> None:
        self.started = False
        """A model has begun to answer: some text, reasoning or tool call has come."""
        self.done = False
        """The end mark has come: nothing follows."""
        self.reason: str | None = None
        """Why the answer ended, in the words of chat completions, once that has come."""
        self.error: object = None
        """The error object that the provider sent."""
        self.failure: ProviderError | None = None
        self._pieces = Pieces()

    @abstractmethod
    def feed(self, events: Iterable[bytes]) -> list[Piece]:
        """The pieces in these events' data. Stops at the end mark and at the first failure."""

    @abstractmethod
    def feed_whole(self, body: bytes) -> list[Piece]:
        """The pieces of an answer that was not streamed."""

    def close(self) -> list[Piece]:
        """What had waited for its other half."""
        return self._pieces.close()

    @abstractmethod
    def finished(self) -> Finished:
        """Raises `ProviderProtocolError` when the stream ended without saying that the answer did."""
