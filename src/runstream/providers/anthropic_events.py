"""What the events of one Messages answer add up to."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from runstream.domain.errors import ProviderProtocolError
from runstream.domain.usage import Usage
from runstream.providers.base import Finished, Piece
from runstream.providers.fields import count_of, name_of, object_of
from runstream.providers.gathering import Gathering

_MAX_REASON = 64
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""In the words of chat completions; others stay as they are. A turn that pauses is cut before its end."""
_COUNTED = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")


@dataclass(slots=True)
class _Block:
    kind: str
    place: int
    input: object = None
    filled: bool = False


class MessagesAnswer(Gathering):
    """Gathers an answer from the data of its events.

    Events and blocks of kinds that are not known are passed over, as the protocol's versioning asks of clients: what a
    server's own tools do, signatures, thoughts that are redacted. A delta belongs to a block that has begun.
    """

    def __init__(self) -> None:
        super().__init__()
        self._model: str | None = None
        self._counts: dict[str, int] = {}
        self._blocks: dict[int, _Block] = {}
        self._calls = 0

    def feed(self, events: Iterable[bytes]) -> list[Piece]:
        return self._hear_all(events, self._hear)

    def feed_whole(self, body: bytes) -> list[Piece]:
        """One JSON object: the message, with its blocks whole."""
        pieces = self._hear_all([body], self._hear_whole)
        self.done = True
        return pieces

    def finished(self) -> Finished:
        if self.reason is None:
            raise ProviderProtocolError("The provider's answer ended without a finish reason.")
        return Finished(self.reason, self._usage(), self._model)

    def _hear_all(self, events: Iterable[bytes], hear: Callable[[dict[str, Any]], None]) -> list[Piece]:
        try:
            for data in events:
                if data == b"[DONE]":  # from gateways that end every protocol's stream alike
                    self.done = True
                else:
                    hear(object_of(data))
                if self.done or self.error is not None:
                    break
        except ProviderProtocolError as failure:
            self.failure = failure
        except (AttributeError, LookupError, TypeError):
            self.failure = ProviderProtocolError("The provider sent an event that is not the Messages protocol's.")
        return self._pieces.take()

    def _hear(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "content_block_delta":
                self._go_on(self._blocks[_index(event)], event["delta"])
            case "content_block_start":
                self._begin(_index(event), event["content_block"])
            case "content_block_stop":
                self._end(_index(event))
            case "message_start":
                self._head(event["message"])
            case "message_delta":
                self._count(event.get("usage"))
                self._finish((event.get("delta") or {}).get("stop_reason"))
            case "message_stop":
                self.done = True
            case _ if event.get("type") == "error" or event.get("error"):
                self.error = event.get("error") or event

    def _hear_whole(self, message: dict[str, Any]) -> None:
        if message.get("type") == "error" or message.get("error"):
            self.error = message.get("error") or message
            return
        self._head(message)
        for index, block in enumerate(message["content"]):
            self._begin(index, block)
            self._end(index)
        self._finish(message.get("stop_reason"))

    def _head(self, message: dict[str, Any]) -> None:
        self._model = name_of(message.get("model")) or self._model
        self._count(message.get("usage"))

    def _begin(self, index: int, block: dict[str, Any]) -> None:
        self._end(index)
        begun = self._blocks[index] = _Block(_text(block["type"]), self._calls)
        match begun.kind:
            case "text":
                self._say(_text(block.get("text")))
            case "thinking":
                self._pieces.reasoning(_text(block.get("thinking")))
            case "tool_use":
                begun.input = block.get("input")
                self._calls += 1
                self._pieces.tool_call(begun.place, _text(block.get("id")) or None, _text(block.get("name")), "")
        if begun.kind != "text":
            self.started = True  # at work, though what it does may not be shown

    def _go_on(self, block: _Block, delta: dict[str, Any]) -> None:
        match block.kind, delta["type"]:
            case "text", "text_delta":
                self._say(_text(delta["text"]))
            case "thinking", "thinking_delta":
                self._pieces.reasoning(_text(delta["thinking"]))
            case "tool_use", "input_json_delta":
                if arguments := _text(delta["partial_json"]):
                    block.filled = True
                    self._pieces.tool_call(block.place, None, None, arguments)
            case (("text" | "thinking" | "tool_use"), ("text_delta" | "thinking_delta" | "input_json_delta")):
                raise TypeError(delta["type"])

    def _say(self, text: str) -> None:
        if text:
            self._pieces.text(text)
            self.started = True

    def _end(self, index: int) -> None:
        """A call whose input did not come in pieces has it from its beginning on; a call of nothing has `{}`."""
        block = self._blocks.pop(index, None)
        if block is not None and block.kind == "tool_use" and not block.filled:
            whole = block.input if isinstance(block.input, dict) else {}
            self._pieces.tool_call(block.place, None, None, orjson.dumps(whole).decode())

    def _finish(self, reason: object) -> None:
        if not (said := (name_of(reason) or "")[:_MAX_REASON]):
            return
        for index in list(self._blocks):
            self._end(index)
        self.started = True
        self.reason = _REASONS.get(said, said)

    def _count(self, usage: object) -> None:
        """Counts are running totals, so the highest is the last; servers that do not know one yet say 0."""
        if isinstance(usage, Mapping):
            for name in _COUNTED:
                if (count := count_of(usage.get(name))) is not None:
                    self._counts[name] = max(count, self._counts.get(name, 0))

    def _usage(self) -> Usage | None:
        if "input_tokens" not in self._counts:
            return None
        uncached, cached, written, output = (self._counts.get(name, 0) for name in _COUNTED)
        together = count_of(uncached + cached + written)
        return None if together is None else Usage(together, output, cached)


def _index(event: dict[str, Any]) -> int:
    index = event["index"]
    if type(index) is not int:
        raise TypeError(index)
    return index


def _text(value: object) -> str:
    """Nothing is no text; what is there must be one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(type(value))
    return value
