"""An answer that a run did not ask for itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from runstream.domain import events
from runstream.domain.events import Event
from runstream.domain.run import Generation
from runstream.domain.usage import ProviderCall, Usage
from runstream.providers.base import Piece, ReasoningDelta, TextDelta, ToolCallDelta


@dataclass(frozen=True, slots=True)
class Given:
    """`call` is what the ledger keeps of the one that was not made; None until all of the answer was given."""

    call: ProviderCall | None = None

    def generation(self, first_token_at: datetime | None) -> Generation:
        call = self.call
        return Generation(
            provider=call.provider if call else None,
            provider_model=call.model if call else None,
            usage=Usage(0, 0),
            first_token_at=first_token_at,
            calls=[call] if call else (),
            cached=True,
        )


def piece_of(event: Event) -> Iterator[Piece]:
    """What the model said; nothing, where it is an event of another kind."""
    data = event.data
    match event.type:
        case events.DELTA:
            yield TextDelta(data["text"])
        case events.REASONING:
            yield ReasoningDelta(data["text"])
        case events.TOOL_CALL:
            yield ToolCallDelta(data["index"], data.get("id"), data.get("name"), data.get("arguments", ""))
