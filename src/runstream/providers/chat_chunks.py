"""What the chunks of one chat completion add up to."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from runstream.domain.errors import ProviderProtocolError
from runstream.domain.usage import Usage
from runstream.providers.base import Finished, Piece
from runstream.providers.fields import cached_of, count_of, name_of, object_of, text_of
from runstream.providers.gathering import Gathering
from runstream.providers.text import clean

_MAX_REASON = 64


class ChatAnswer(Gathering):
    """Gathers an answer from the data of its events.

    Chunks may lack nearly everything: a first one with a role only or with no choices, one with `content: null`, a
    last one with usage only.
    """

    def __init__(self) -> None:
        super().__init__()
        self._model: str | None = None
        self._usage: object = None

    def feed(self, events: Iterable[bytes], parse: Callable[[bytes], dict[str, Any]] | None = None) -> list[Piece]:
        parse = parse or object_of
        try:
            for data in events:
                if data == b"[DONE]":
                    self.done = True
                    break
                self._add(parse(data))
                if self.error is not None:
                    break
        except ProviderProtocolError as failure:
            self.failure = failure
        except (AttributeError, LookupError, TypeError):
            self.failure = ProviderProtocolError("The provider sent a chunk that is not a chat completion's.")
        return self._pieces.take()

    def feed_whole(self, body: bytes) -> list[Piece]:
        """One JSON object with a message in place of deltas."""
        self.done = True
        return self.feed([body], _whole_as_chunk)

    def finished(self) -> Finished:
        if self.reason is None:
            raise ProviderProtocolError("The provider's answer ended without a finish reason.")
        return Finished(clean(str(self.reason))[:_MAX_REASON], _usage(self._usage), self._model)

    def _add(self, chunk: dict[str, Any]) -> None:
        if usage := chunk.get("usage"):
            self._usage = usage
        if choices := chunk.get("choices"):
            choice = choices[0]
            if delta := choice.get("delta"):
                content = delta.get("content")
                if content and type(content) is str and len(delta) == 1:
                    self._pieces.text(content)
                    self.started = True
                else:
                    self._add_mixed(delta)
            if reason := choice.get("finish_reason"):
                self._finish(str(reason), chunk)
        if error := chunk.get("error"):
            self.error = error
        elif chunk.get("object") == "error":
            self.error = chunk

    def _add_mixed(self, delta: dict[str, Any]) -> None:
        """What is not text alone.

        Content in parts (Mistral), a refusal (OpenAI), reasoning (`reasoning_content` at DeepSeek, vLLM and llama.cpp,
        `reasoning` at OpenRouter and Ollama), tool calls, and what shows only that the model is at work.
        """
        if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
            self._pieces.reasoning(text_of(reasoning))
        content = delta.get("content")
        if isinstance(content, list):
            self._add_parts(content)
        elif content and isinstance(content, str):
            self._pieces.text(content)
        elif not content and (refusal := delta.get("refusal")):
            self._pieces.text(text_of(refusal))
        for call in delta.get("tool_calls") or ():
            self._add_call(call)
        if any(value for name, value in delta.items() if name != "role"):
            self.started = True

    def _add_parts(self, parts: list[Any]) -> None:
        for part in parts:
            if part.get("type") == "thinking":
                self._pieces.reasoning(text_of(part.get("thinking")))
            else:
                self._pieces.text(text_of([part]))

    def _add_call(self, call: dict[str, Any]) -> None:
        """Some servers leave out the index, or give whole calls the same one: then the id says which call it is."""
        function = call.get("function") or {}
        index, arguments = call.get("index"), function.get("arguments") or ""
        self._pieces.tool_call(
            index if isinstance(index, int) else 0,
            text_of(call.get("id")) or None,
            text_of(function.get("name")) or None,
            arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode(),
        )

    def _finish(self, reason: str, chunk: dict[str, Any]) -> None:
        self.started = True
        self.reason = reason
        self._model = name_of(chunk.get("model")) or self._model
        if reason == "error" and not chunk.get("error"):
            self.error = {"type": "server_error"}


def _whole_as_chunk(body: bytes) -> dict[str, Any]:
    chunk = object_of(body)
    for choice in chunk.get("choices") or ():
        choice["delta"] = choice.get("message")
    return chunk


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, Mapping):
        return None
    prompt, completion = count_of(usage.get("prompt_tokens")), count_of(usage.get("completion_tokens"))
    if prompt is None:
        return None
    return Usage(prompt, completion or 0, cached_of(usage.get("prompt_tokens_details"), prompt))
