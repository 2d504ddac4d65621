"""One answer's tokens, in the protocol's chunks."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from runstream.providers.simulated.script import Script
from runstream.providers.simulated.tokens import Token

_CREATED = 1_700_000_000
_BURST = 64
"""Tokens built between two looks at the socket when there is no pace to keep."""


class Answer:
    """Its tokens are taken from it once, in order; `sent` counts those that were."""

    id_header = b"X-Request-Id"
    id_prefix = "chatcmpl-sim"
    field = "messages"
    """Where the request has what was said before."""

    @staticmethod
    def asked(body: dict[str, Any]) -> dict[str, Any]:
        """The request in the words of chat completions, which the scripts understand. Raises ValueError."""
        return body

    def __init__(self, script: Script, body: Mapping[str, Any], number: int) -> None:
        self.script = script
        self.id = f"{self.id_prefix}{number}"
        self.model = str(body.get("model", ""))
        self.sent = 0
        self._tokens, self.reason = script.answer(number)
        self.input_tokens = _count(body["messages"])
        options = body.get("stream_options")
        asked = isinstance(options, dict) and bool(options.get("include_usage"))
        self._include_usage = asked and script.counted
        self._chunks = self.chunks()
        start = {"id": self.id, "object": "chat.completion.chunk", "created": _CREATED, "model": self.model}
        self._start = b"data: " + orjson.dumps(start)[:-1]
        self._before = self._start + b',"choices":[{"index":0,"delta":{"content":'

    def tokens(self) -> Iterator[Token]:
        for token in self._tokens:
            self.sent += 1
            yield token

    def chunks(self) -> Iterator[bytes]:
        """Every token as one HTTP chunk, as most servers send them."""
        after = b'},"finish_reason":null}]}\n\n'
        for token in self.tokens():
            if isinstance(token, str):
                yield chunked(self._before + orjson.dumps(token) + after)
            else:
                choice = {"index": 0, "delta": token, "finish_reason": None}
                yield chunked(self._start + b',"choices":[' + orjson.dumps(choice) + b"]}\n\n")

    def message(self) -> dict[str, Any]:
        """All of it, for a call that is not streamed."""
        texts: list[str] = []
        thoughts: list[str] = []
        calls: dict[int, dict[str, Any]] = {}
        for token in self.tokens():
            if isinstance(token, str):
                texts.append(token)
            elif "reasoning_content" in token:
                thoughts.append(token["reasoning_content"])
            else:
                for piece in token["tool_calls"]:
                    _add_piece(calls, piece)
        message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
        if thoughts:
            message["reasoning_content"] = "".join(thoughts)
        if calls:
            message |= {"content": message["content"] or None, "tool_calls": list(calls.values())}
        return message

    def burst(self) -> bytes:
        return b"".join(chunk for _, chunk in zip(range(_BURST), self._chunks, strict=False))

    def begin(self) -> bytes:
        """What comes before the first token."""
        return b""

    def tail(self) -> bytes:
        choice = {"index": 0, "delta": {}, "finish_reason": self.reason}
        finish = self._start + b',"choices":[' + orjson.dumps(choice) + b"]}\n\n"
        usage = self._start + b',"choices":[],"usage":' + orjson.dumps(self.usage()) + b"}\n\n"
        return finish + (usage if self._include_usage else b"") + b"data: [DONE]\n\n"

    def failed(self) -> bytes:
        error = {"message": "simulated error", "type": "server_error", "code": "simulated"}
        return b"data: " + orjson.dumps({"error": error}) + b"\n\n"

    def malformed(self) -> bytes:
        return b'data: {"id":"chatcmpl-sim","choices":[{"index":0,"delta":{"cont\n\n'

    def whole(self) -> dict[str, Any]:
        """All of it, for a call that is not streamed."""
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": _CREATED,
            "model": self.model,
            "choices": [{"index": 0, "message": self.message(), "finish_reason": self.reason}],
            "usage": self.usage(),
        }

    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.sent,
            "total_tokens": self.input_tokens + self.sent,
            "prompt_tokens_details": {"cached_tokens": 0},
        }


def _add_piece(calls: dict[int, dict[str, Any]], piece: Mapping[str, Any]) -> None:
    index = piece["index"]
    if index not in calls:
        calls[index] = {"id": piece["id"], "type": "function", "function": dict(piece["function"])}
    else:
        calls[index]["function"]["arguments"] += piece["function"]["arguments"]


def _count(messages: list[Any]) -> int:
    contents = (message.get("content") for message in messages if isinstance(message, dict))
    return sum(len(content.split()) for content in contents if isinstance(content, str))


def chunked(data: bytes) -> bytes:
    """The data as one chunk of HTTP's chunked encoding."""
    return b"%x\r\n%s\r\n" % (len(data), data)
