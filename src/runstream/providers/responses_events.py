"""What the events of one response add up to."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runstream.domain.errors import ProviderAnswerLost, ProviderError, ProviderProtocolError
from runstream.domain.usage import Usage
from runstream.providers.base import Finished, Piece, Resumable
from runstream.providers.fields import cached_of, count_of, name_of, object_of
from runstream.providers.gathering import Gathering
from runstream.providers.text import clean

_MAX_REASON = 64
_ID = re.compile(r"(?=.*\w)[\w.:=+~-]{1,512}", re.ASCII)
"""What may stand in an address."""

_TEXT, _SUMMARY, _REASONING, _ARGUMENTS = "text", "summary", "reasoning", "arguments"
_DELTAS = {
    "response.refusal.delta": (_TEXT, "content_index"),
    "response.reasoning_summary_text.delta": (_SUMMARY, "summary_index"),
    "response.reasoning_text.delta": (_REASONING, "content_index"),
    "response.function_call_arguments.delta": (_ARGUMENTS, ""),
}
_ENDS = frozenset(f"response.{status}" for status in ("completed", "incomplete", "failed", "cancelled"))
_GOING_ON = frozenset({"queued", "in_progress"})
_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}


class ResponseAnswer(Gathering):
    """Gathers an answer from the data of its events.

    What a server did not stream it may still say in an item that is done, or in the response at the end: that is
    taken where nothing of it came before. Events of other kinds (searches, files, whatever is added to the protocol)
    are passed over.

    An answer in the background may be fed from one stream after another, and from the response as it stands at last:
    nothing is taken twice.
    """

    def __init__(self, *, in_background: bool = False) -> None:
        super().__init__()
        self.id: str | None = None
        """What the provider calls the answer, once that is known and can be asked for."""
        self.sequence: int | None = None
        """The number of the last event, in the background: nothing up to it is needed again."""
        self.pending = False
        """The response, as it was last fed whole, goes on."""
        self._in_background = in_background
        self._model: str | None = None
        self._usage: object = None
        self._opening: list[Piece] = []
        self._said: dict[tuple[str, int, int], int] = {}

    @property
    def ended(self) -> bool:
        """The provider works on it no longer."""
        return self.reason is not None or self.error is not None or isinstance(self.failure, ProviderAnswerLost)

    def feed(self, events: Iterable[bytes]) -> list[Piece]:
        try:
            for data in events:
                if data == b"[DONE]":
                    self.done = not self._in_background  # there, only a response's end is one
                else:
                    self._add(object_of(data))
                if self.done or self.ended:
                    break
        except ProviderError as failure:
            self.failure = failure
        except (AttributeError, LookupError, TypeError):
            self.failure = ProviderProtocolError("The provider sent an event that is not a response's.")
        return self._take()

    def feed_whole(self, body: bytes) -> list[Piece]:
        """One JSON object: the response as it stands. What of it had come before is passed over."""
        try:
            self._add_whole(object_of(body))
        except ProviderError as failure:
            self.failure = failure
        except (AttributeError, LookupError, TypeError):
            self.failure = ProviderProtocolError("The provider's answer is not a response.")
        return self._take()

    def finished(self) -> Finished:
        if self.reason is None:
            raise ProviderProtocolError("The provider's answer ended without a finish reason.")
        return Finished(self.reason, _usage(self._usage), self._model)

    def _take(self) -> list[Piece]:
        opening, self._opening = self._opening, []
        return opening + self._pieces.take()

    def _add(self, event: dict[str, Any]) -> None:
        number = event.get("sequence_number")
        if self._in_background and isinstance(number, int):
            if self.sequence is not None and number <= self.sequence:
                return
            self._add_new(event)
            self.sequence = number
        else:
            self._add_new(event)

    def _add_new(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "response.output_text.delta":
            self._add_delta(_TEXT, event, "content_index")
        elif kind in _DELTAS:
            channel, part = _DELTAS[kind]
            self._add_delta(channel, event, part)
        elif kind == "response.output_item.added":
            self.started = True
            self._add_call(event["item"], _index(event, "output_index"))
        elif kind == "response.output_item.done":
            self.started = True
            self._add_item(event["item"], _index(event, "output_index"))
        elif kind in _ENDS:
            # Some servers say `response.completed` of every end: the response itself knows better.
            status = f"response.{event['response'].get('status')}"
            self._end(event["response"], (status if status in _ENDS else str(kind)).removeprefix("response."))
        elif kind == "error" or event.get("error"):
            self.error = event.get("error") or event
        elif isinstance(response := event.get("response"), Mapping):
            self._learn(response)

    def _add_delta(self, channel: str, event: dict[str, Any], part: str) -> None:
        delta = event.get("delta")
        if not isinstance(delta, str):
            raise ProviderProtocolError("The provider sent a delta that is not text.")
        self.started = True
        self._say(channel, _index(event, "output_index"), _index(event, part), delta)

    def _say(self, channel: str, item: int, part: int, text: str) -> None:
        """Take in text that follows what came at its place."""
        if not text:
            return
        place = channel, item, part
        so_far = self._said.get(place, 0)
        self._said[place] = so_far + len(text)
        if channel is _TEXT:
            self._pieces.text(text)
        elif channel is _ARGUMENTS:
            self._pieces.tool_call(item, None, None, text)
        else:
            # The parts of a summary are paragraphs, and nothing stands between them.
            self._pieces.reasoning("\n\n" + text if channel is _SUMMARY and part and not so_far else text)

    def _add_call(self, item: Mapping[str, Any], index: int) -> None:
        """Begin a tool call, where the item is one and none has begun in its place."""
        if item.get("type") == "function_call":
            self._pieces.tool_call(index, _text(item.get("call_id")) or None, _text(item.get("name")) or None, "")

    def _add_item(self, item: Mapping[str, Any], index: int) -> None:
        """What the item holds, where nothing of it was streamed."""
        self._add_call(item, index)
        if all(said != index for _, said, _ in self._said):
            for channel, part, text in _parts(item):
                self._say(channel, index, part, text)

    def _add_rest(self, response: Mapping[str, Any]) -> None:
        """What the response holds beyond what has come."""
        for index, item in enumerate(response.get("output") or ()):
            self._add_call(item, index)
            for channel, part, text in _parts(item):
                self._say(channel, index, part, text[self._said.get((channel, index, part), 0) :])

    def _add_whole(self, response: dict[str, Any]) -> None:
        status = response.get("status")
        self._learn(response)
        self.pending = status in _GOING_ON
        if f"response.{status}" in _ENDS:
            self._add_rest(response)
            self._end(response, str(status))
        elif error := response.get("error"):
            self.error = error
        elif not self.pending:
            raise ProviderProtocolError("The provider's answer is not a response.")

    def _learn(self, response: Mapping[str, Any]) -> None:
        name = response.get("id")
        if self.id is None and isinstance(name, str) and _ID.fullmatch(name):
            self.id = name
            if self._in_background:
                self._opening.append(Resumable(name))

    def _end(self, response: Mapping[str, Any], status: str) -> None:
        self._learn(response)
        if not self.started:
            self._add_rest(response)
        self.started = True
        self._usage, self._model = response.get("usage"), name_of(response.get("model"))
        if status == "completed":
            self.reason = "tool_calls" if self._pieces.calls else "stop"
        elif status == "incomplete":
            why = _text((response.get("incomplete_details") or {}).get("reason"))
            self.reason = _REASONS.get(why) or clean(why)[:_MAX_REASON] or "length"
        elif status == "failed":
            self.error = response.get("error") or {"type": "server_error"}
        else:
            self.failure = ProviderAnswerLost("The provider's answer was cancelled.")
        self.done = True


def can_be_asked_for(name: str) -> bool:
    """Whether it may be a response's id."""
    return _ID.fullmatch(name) is not None


def _parts(item: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    """What an item says: the channel, the part's index, the text. Reasoning that has a summary is only that."""
    kind = item.get("type")
    if kind == "message":
        for index, part in enumerate(item.get("content") or ()):
            yield _TEXT, index, _text(part.get("text")) or _text(part.get("refusal"))
    elif kind == "reasoning":
        channel = _SUMMARY if item.get("summary") else _REASONING
        for index, part in enumerate(item.get("summary") or item.get("content") or ()):
            yield channel, index, _text(part.get("text"))
    elif kind == "function_call":
        yield _ARGUMENTS, 0, _text(item.get("arguments"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _index(event: Mapping[str, Any], name: str) -> int:
    index = event.get(name)
    return index if isinstance(index, int) else 0


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, Mapping):
        return None
    read, written = count_of(usage.get("input_tokens")), count_of(usage.get("output_tokens"))
    if read is None:
        return None
    return Usage(read, written or 0, cached_of(usage.get("input_tokens_details"), read))
