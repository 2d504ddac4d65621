"""One answer's tokens in the events of the Messages protocol, and what is asked in it."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from runstream.providers.simulated.answer import Answer, chunked
from runstream.providers.simulated.tokens import Token

_FIELDS = {"model", "messages", "system", "max_tokens", "stream", "temperature", "stop_sequences"}
_FIELDS |= {"tools", "tool_choice", "thinking", "output_config", "metadata"}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_LEAST_BUDGET = 1024


class MessagesAnswer(Answer):
    """Text, thoughts and tool calls that follow each other, each in a block of its own."""

    id_header = b"request-id"
    id_prefix = "msg_sim"
    _index = -1
    _kind = ""
    _before = b""

    @staticmethod
    def asked(body: dict[str, Any]) -> dict[str, Any]:
        """As strict as the real server about what it takes, as far as a client may go wrong there."""
        _check(body)
        system = [{"role": "system", "content": _text(body["system"])}] if body.get("system") else []
        messages = [{"role": each["role"], "content": _text(each["content"])} for each in body["messages"]]
        return {
            "model": body.get("model"),
            "messages": system + messages,
            "max_tokens": body["max_tokens"],
            "stop": body.get("stop_sequences"),
            "stream": body.get("stream"),
        }

    def begin(self) -> bytes:
        message = self._message([], None) | {"usage": self.usage() | {"output_tokens": 0}}
        return chunked(_event("message_start", message=message) + _event("ping"))

    def chunks(self) -> Iterator[bytes]:
        for token in self.tokens():
            if isinstance(token, str) and self._kind == "text":
                yield chunked(self._before + orjson.dumps(token) + b"}}\n\n")
            else:
                yield chunked(b"".join(_event(name, **fields) for name, fields in self._events(token)))

    def tail(self) -> bytes:
        delta = {"stop_reason": self._stop_reason(), "stop_sequence": None}
        end = _event("message_delta", delta=delta, usage={"output_tokens": self.sent}) + _event("message_stop")
        return b"".join(_event(name, **fields) for name, fields in self._end_block()) + end

    def failed(self) -> bytes:
        return _event("error", error={"type": "api_error", "message": "simulated error"})

    def malformed(self) -> bytes:
        return _event("content_block_delta", index=0, delta={"type": "text_delta"})[:-8] + b"\n\n"

    def whole(self) -> dict[str, Any]:
        blocks: list[dict[str, Any]] = []
        for token in self.tokens():
            for name, fields in self._events(token):
                if name == "content_block_start":
                    blocks.append({**fields["content_block"], "input": ""})
                elif name == "content_block_delta":
                    _add(blocks[-1], fields["delta"])
        return self._message([_whole_block(block) for block in blocks], self._stop_reason()) | {"usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        return {"input_tokens": self.input_tokens, **cached, "output_tokens": self.sent}

    def _message(self, content: list[dict[str, Any]], stop_reason: str | None) -> dict[str, Any]:
        message = {"id": self.id, "type": "message", "role": "assistant", "model": self.model}
        return message | {"content": content, "stop_reason": stop_reason, "stop_sequence": None}

    def _stop_reason(self) -> str:
        return _REASONS.get(self.reason, self.reason)

    def _events(self, token: Token) -> Iterator[tuple[str, dict[str, Any]]]:
        """One token's, with the end of the block before it and the beginning of its own where it begins one."""
        if isinstance(token, str):
            yield from self._begin_block("text", {"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": token})
        elif "reasoning_content" in token:
            yield from self._begin_block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": token["reasoning_content"]})
        else:
            for piece in token["tool_calls"]:
                function = piece["function"]
                block = {"type": "tool_use", "id": piece.get("id"), "name": function.get("name"), "input": {}}
                yield from self._begin_block(f"tool_use {piece['index']}", block)
                yield self._delta({"type": "input_json_delta", "partial_json": function["arguments"]})

    def _delta(self, delta: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        return "content_block_delta", {"index": self._index, "delta": delta}

    def _begin_block(self, kind: str, block: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        if kind == self._kind:
            return
        yield from self._end_block()
        self._kind = kind
        self._index += 1
        start = _event("content_block_delta", index=self._index, delta={"type": "text_delta", "text": ""})
        self._before = start.removesuffix(b'""}}\n\n')
        yield "content_block_start", {"index": self._index, "content_block": block}

    def _end_block(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._kind == "thinking":
            yield self._delta({"type": "signature_delta", "signature": "c2lnbmVk"})
        if self._kind:
            yield "content_block_stop", {"index": self._index}


def refusal(status: int, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": _ERRORS.get(status, "api_error"), "message": message}}


def _event(name: str, **fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps({"type": name, **fields}))


def _check(body: Mapping[str, Any]) -> None:
    limit, temperature = body.get("max_tokens"), body.get("temperature")
    thinking = body.get("thinking") or {}
    for field in sorted(set(body) - _FIELDS):
        raise ValueError(f"{field}: Extra inputs are not permitted")
    if type(limit) is not int or limit < 1:
        raise ValueError("max_tokens: Field required")
    if temperature is not None and not 0 <= temperature <= 1:
        raise ValueError("temperature: range: 0..1")
    if thinking and temperature is not None:
        raise ValueError("`temperature` may only be set to 1 when thinking is enabled.")
    if thinking.get("type") == "enabled" and not _LEAST_BUDGET <= thinking["budget_tokens"] < limit:
        raise ValueError("`max_tokens` must be greater than `thinking.budget_tokens`.")
    for message in body["messages"]:
        if message.get("role") not in {"user", "assistant"} or not message.get("content"):
            raise ValueError("messages: a role that is not one, or no content")


def _text(content: object) -> str:
    """What is said in blocks, tools' results too."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "\n".join(filter(None, (block.get("text") or _text(block.get("content")) for block in blocks)))


def _add(block: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for ours, theirs in (("text", "text"), ("thinking", "thinking"), ("input", "partial_json")):
        if theirs in delta:
            block[ours] += delta[theirs]


def _whole_block(block: dict[str, Any]) -> dict[str, Any]:
    """An input that a limit cut short is none."""
    given = block.pop("input")
    if block["type"] != "tool_use":
        return block
    try:
        return {**block, "input": orjson.loads(given)}
    except orjson.JSONDecodeError:
        return {**block, "input": {}}
