"""The chat-completions protocol: OpenAI, vLLM, Ollama, llama.cpp, LiteLLM and everybody else who speaks it.

What is asked is here, what is answered is gathered in `chat_chunks`; the way in between is every protocol's:
`account`.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Unpack

import httpx
import orjson

from runstream.providers.base import Call, Piece, ProviderConfig, Timeouts
from runstream.providers.chat_chunks import ChatAnswer
from runstream.providers.dialects import Dialects
from runstream.providers.http_provider import HttpProvider, Options


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What a server takes. Where it is not known beforehand, a refusal that names the field teaches it.

    `max_tokens` is the name that every server but OpenAI's knows, and those that do not know
    `max_completion_tokens` pass over it in silence, which would leave an answer without its limit; OpenAI's newer
    models refuse `max_tokens`.
    """

    limit: str = "max_tokens"
    stream_options: bool = True


class OpenAIChat(HttpProvider):
    def __init__(self, config: ProviderConfig, **options: Unpack[Options]) -> None:
        """Raises `ConfigurationError`."""
        super().__init__(config, **options)
        url = self._account.url("/chat/completions")
        self._dialects = Dialects(self._account, url, first=_first_dialect(url), written=_body, taught=_taught)

    def stream(self, call: Call, timeouts: Timeouts) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        return self._dialects.answer(call, ChatAnswer(), timeouts)


def _first_dialect(url: httpx.URL) -> _Dialect:
    openai = url.host == "api.openai.com" or url.host.endswith(".openai.azure.com")
    return _Dialect(limit="max_completion_tokens") if openai else _Dialect()


def _body(call: Call, dialect: _Dialect) -> dict[str, Any]:
    prompt = call.prompt
    body: dict[str, Any] = {"model": call.model, "messages": list(prompt.messages), "stream": True}
    if dialect.stream_options:
        body["stream_options"] = {"include_usage": True}
    if prompt.max_output_tokens is not None:
        body[dialect.limit] = prompt.max_output_tokens
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    if prompt.tools:
        body["tools"] = list(prompt.tools)
    for name in ("temperature", "response_format", "tool_choice", "reasoning_effort"):
        if (value := getattr(prompt, name)) is not None:
            body[name] = value
    return body


def _taught(dialect: _Dialect, status: int, body: object) -> _Dialect | None:
    """The dialect that a refusal asks for, if it is about one: it names the field, and says that it is not known."""
    if status not in {400, 422}:
        return None
    said = orjson.dumps(body, default=str).decode().lower()
    if not any(stem in said for stem in _UNKNOWN_FIELD):
        return None
    if dialect.stream_options and "stream_options" in said:
        return replace(dialect, stream_options=False)
    if dialect.limit in said:
        return replace(dialect, limit=_OTHER_LIMIT[dialect.limit])
    return None


_OTHER_LIMIT = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_UNKNOWN_FIELD = ("unsupported", "not supported", "unknown", "unrecognized", "unexpected", "not permitted", "extra")
