"""What came in one read, as pieces: kinds in the order in which they came, what follows each other joined."""

from runstream.domain.errors import ProviderProtocolError
from runstream.providers.base import Piece, ReasoningDelta, TextDelta, ToolCallDelta
from runstream.providers.text import TextJoiner, clean

_MAX_NAME = 200
"""Characters of a tool call's id and of its function's name."""

_Kind = tuple[type[Piece], int]
_TEXT: _Kind = (TextDelta, 0)
_REASONING: _Kind = (ReasoningDelta, 0)


class Pieces:
    """Gathers pieces, made fit to be kept, until they are taken."""

    def __init__(self) -> None:
        self._taken: list[Piece] = []
        self._kind = _TEXT
        self._texts: list[str] = []
        self._joiners: dict[_Kind, TextJoiner] = {_TEXT: TextJoiner()}
        self._calls: dict[int, tuple[int, str]] = {}
        self._opened = 0

    @property
    def calls(self) -> int:
        """How many tool calls have begun."""
        return self._opened

    def text(self, text: str) -> None:
        if self._kind is not _TEXT:
            self._turn_to(_TEXT)
        self._texts.append(text)

    def reasoning(self, text: str) -> None:
        self._turn_to(_REASONING)
        self._texts.append(text)

    def tool_call(self, place: int, call_id: str | None, name: str | None, arguments: str) -> None:
        """A piece of the call at the provider's `place`; one with another id there, or the first one, begins a call.

        Raises ProviderProtocolError where a call begins without a name.
        """
        known = self._calls.get(place)
        call_id = clean(call_id)[:_MAX_NAME] if call_id else None
        if known is None or (call_id and known[1] != call_id):
            if not name:
                raise ProviderProtocolError("The provider began a tool call without a name.")
            known = self._calls[place] = (self._opened, call_id or f"call_{self._opened}")
            self._opened += 1
            self._turn_to((ToolCallDelta, known[0]))
            self._taken.append(ToolCallDelta(*known, clean(name)[:_MAX_NAME], ""))
        self._turn_to((ToolCallDelta, known[0]))
        if arguments:
            self._texts.append(arguments)

    def take(self) -> list[Piece]:
        """What has come since the last time."""
        self._join()
        taken, self._taken = self._taken, []
        return taken

    def close(self) -> list[Piece]:
        """What is left: also what had waited for its other half."""
        self._join()
        for kind, joiner in self._joiners.items():
            self._add(kind, joiner.close())
        return self.take()

    def _turn_to(self, kind: _Kind) -> None:
        if kind != self._kind:
            self._join()
            self._kind = kind
            self._joiners.setdefault(kind, TextJoiner())

    def _join(self) -> None:
        if self._texts and (text := "".join(self._texts)):
            self._add(self._kind, self._joiners[self._kind].feed(text))
        self._texts.clear()

    def _add(self, kind: _Kind, text: str) -> None:
        if not text:
            return
        if kind[0] is TextDelta:
            self._taken.append(TextDelta(text))
        elif kind[0] is ReasoningDelta:
            self._taken.append(ReasoningDelta(text))
        else:
            self._taken.append(ToolCallDelta(kind[1], None, None, text))
