"""What the chunks of one chat completion add up to."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from runstream.domain.errors import ProviderError, ProviderProtocolError
from runstream.domain.usage import Usage
from runstream.providers.base import Finished
from runstream.providers.text import TextJoiner, clean

_MAX_NAME = 200
_MAX_REASON = 64
_MAX_COUNT = 2**31 - 1
"""What a run's row can hold: an end that does not fit could not be written."""


class ChatAnswer:
    """Gathers an answer from the data of its events.

    Chunks may lack nearly everything: a first one with a role only or with no choices, one with `content: null`, a
    last one with usage only. What failed is kept for the caller to raise once the text before it has been given out.
    """

    def __init__(self) -> None:
        self.started = False
        """A model has begun to answer: some text, reasoning or tool call has come."""
        self.done = False
        """The end mark has come: nothing follows."""
        self.reason: str | None = None
        self.error: object = None
        """The error object that the provider sent."""
        self.failure: ProviderError | None = None
        self._model: str | None = None
        self._usage: object = None
        self._text = TextJoiner()

    def feed(self, events: Iterable[bytes], parse: Callable[[bytes], dict[str, Any]] | None = None) -> str:
        """The text in these events, joined. Stops at the end mark and at the first failure."""
        texts: list[str] = []
        parse = parse or _chunk
        try:
            for data in events:
                if data == b"[DONE]":
                    self.done = True
                    break
                self._add(parse(data), texts)
                if self.error is not None:
                    break
        except ProviderProtocolError as failure:
            self.failure = failure
        except (AttributeError, LookupError, TypeError):
            self.failure = ProviderProtocolError("The provider sent a chunk that is not a chat completion's.")
        return self._text.feed("".join(texts)) if texts else ""

    def feed_whole(self, body: bytes) -> str:
        """The text of an answer that was not streamed: one JSON object with a message in place of deltas."""
        self.done = True
        return self.feed([body], _whole_as_chunk)

    def close(self) -> str:
        """The text that had waited for its other half."""
        return self._text.close()

    def finished(self) -> Finished:
        """Raises `ProviderProtocolError` when the stream ended without saying that the answer did."""
        if self.reason is None:
            raise ProviderProtocolError("The provider's answer ended without a finish reason.")
        return Finished(clean(str(self.reason))[:_MAX_REASON], _usage(self._usage), self._model)

    def _add(self, chunk: dict[str, Any], texts: list[str]) -> None:
        if usage := chunk.get("usage"):
            self._usage = usage
        if choices := chunk.get("choices"):
            choice = choices[0]
            if delta := choice.get("delta"):
                content = delta.get("content")
                if content and type(content) is str:
                    texts.append(content)
                    self.started = True
                else:
                    self._add_unusual(delta, texts)
            if reason := choice.get("finish_reason"):
                self._finish(str(reason), chunk)
        if error := chunk.get("error"):
            self.error = error
        elif chunk.get("object") == "error":
            self.error = chunk

    def _add_unusual(self, delta: dict[str, Any], texts: list[str]) -> None:
        """Content in parts (Mistral), a refusal (OpenAI), and what is no text but shows that the model is at work."""
        content = delta.get("content") or delta.get("refusal")
        if content:
            texts.append(_text_of(content))
        if any(value for name, value in delta.items() if name != "role"):
            self.started = True

    def _finish(self, reason: str, chunk: dict[str, Any]) -> None:
        self.started = True
        self.reason = reason
        if isinstance(model := chunk.get("model"), str):
            self._model = clean(model)[:_MAX_NAME]
        if reason == "error" and not chunk.get("error"):
            self.error = {"type": "server_error"}


def _chunk(data: bytes) -> dict[str, Any]:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        chunk = _chunk_in_bad_unicode(data)
    if not isinstance(chunk, dict):
        raise ProviderProtocolError("The provider sent a chunk that is not a JSON object.")
    return chunk


def _chunk_in_bad_unicode(data: bytes) -> object:
    """Servers that cut a token's bytes or a surrogate pair in two send what strict JSON parsers refuse."""
    if not data.strip():
        return {}
    try:
        return json.loads(data.decode(errors="replace"))
    except (ValueError, RecursionError):
        raise ProviderProtocolError("The provider sent a chunk that is not JSON.") from None


def _whole_as_chunk(body: bytes) -> dict[str, Any]:
    chunk = _chunk(body)
    for choice in chunk.get("choices") or ():
        choice["delta"] = choice.get("message")
    return chunk


def _text_of(content: object) -> str:
    """The text of content that is a string, or a list of parts of which some are text."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, Mapping):
        return None
    details = usage.get("prompt_tokens_details")
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if prompt is None:
        return None
    cached = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else None
    return Usage(prompt, completion or 0, cached or 0)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= _MAX_COUNT else None
