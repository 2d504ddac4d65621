"""The Messages protocol: Anthropic, and those who speak it too.

What is asked is here and, for the messages themselves, in `anthropic_prompt`; what is answered is gathered in
`anthropic_events`; the way in between is every protocol's: `account`.

Where a prompt, which has the form of chat completions, says what this protocol does not know:

- `temperature` goes to 1 here: what is above is taken for 1. It is left out where a model is asked to reason, and for
  models that refuse it: newer ones have but one.
- A limit must be given: without `max_output_tokens` it is 32,000, which all models since Claude 4 take. Reasoning
  counts towards it.
- `reasoning_effort` is the model's effort with adaptive thinking (`minimal` as `low`), and a summary of the thinking
  comes with the answer. For models before Claude 4.6 it is a share of the limit; they reason neither where the limit is
  1,024 or less, nor where a tool is forced upon them, nor on the way from a tool's result to the answer, which would
  take their earlier thoughts, and those are not kept.
- Some of the newest models refuse to have a tool forced upon them: then the call is refused.
- A `json_object` is asked for in words, as nothing of the protocol enforces it; a `json_schema` is enforced.
- A message's `name`, an image's `detail` and a format's `name` and `strict` say nothing here, and are left out.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Unpack

import orjson

from runstream.domain.prompt import Prompt
from runstream.providers.anthropic_events import MessagesAnswer
from runstream.providers.anthropic_prompt import messages_of, system_of, tool_choice_of, tools_of
from runstream.providers.base import Call, Piece, ProviderConfig, Timeouts
from runstream.providers.dialects import Dialects
from runstream.providers.http_provider import HttpProvider, Options

_VERSION = "2023-06-01"
_LIMIT = 32_000
_LEAST_BUDGET = 1024
_EFFORT = {"minimal": "low"}
_SHARE = {"minimal": 0.0, "low": 0.125, "medium": 0.25, "high": 0.5}
"""Of the limit, for thinking."""


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What a model takes: the newest's ways, until a refusal teaches that it has others."""

    adaptive: bool = True
    temperature: bool = True


class AnthropicMessages(HttpProvider):
    example = "https://api.anthropic.com/v1"
    listed = 1000

    def __init__(self, config: ProviderConfig, **options: Unpack[Options]) -> None:
        """Raises `ConfigurationError`."""
        super().__init__(config, **options)
        url = self._account.url("/messages")
        self._dialects = Dialects(self._account, url, first=_Dialect(), written=_body, taught=_taught)

    @staticmethod
    def authorized(key: str) -> Mapping[str, str]:
        return {"anthropic-version": _VERSION, **({"x-api-key": key} if key else {})}

    def stream(self, call: Call, timeouts: Timeouts) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        return self._dialects.answer(call, MessagesAnswer(), timeouts)


def _body(call: Call, dialect: _Dialect) -> dict[str, Any]:
    prompt = call.prompt
    messages = messages_of(prompt)
    thinking = _thinking(prompt, dialect, messages)
    fields: dict[str, Any] = {
        "system": system_of(prompt),
        "stop_sequences": list(prompt.stop or ()),
        "tools": tools_of(prompt),
        "tool_choice": tool_choice_of(prompt),
        "thinking": thinking,
        "output_config": _output_config(prompt, dialect),
    }
    body = {"model": call.model, "max_tokens": _limit(prompt), "messages": messages, "stream": True}
    if prompt.temperature is not None and dialect.temperature and not thinking:
        body["temperature"] = min(prompt.temperature, 1)
    return body | {name: value for name, value in fields.items() if value}


def _limit(prompt: Prompt) -> int:
    return _LIMIT if prompt.max_output_tokens is None else prompt.max_output_tokens


def _thinking(prompt: Prompt, dialect: _Dialect, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if prompt.reasoning_effort is None:
        return None
    if dialect.adaptive:
        return {"type": "adaptive", "display": "summarized"}
    forced = prompt.tool_choice == "required" or isinstance(prompt.tool_choice, Mapping)
    after_tool = any(block["type"] == "tool_result" for turn in messages[-1:] for block in turn["content"])
    if forced or after_tool or _limit(prompt) <= _LEAST_BUDGET:
        return None
    budget = int(_limit(prompt) * _SHARE.get(prompt.reasoning_effort, 0.25))
    return {"type": "enabled", "budget_tokens": max(budget, _LEAST_BUDGET)}


def _output_config(prompt: Prompt, dialect: _Dialect) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if prompt.reasoning_effort is not None and dialect.adaptive:
        config["effort"] = _EFFORT.get(prompt.reasoning_effort, prompt.reasoning_effort)
    format_ = prompt.response_format or {}
    if schema := (format_.get("json_schema") or {}).get("schema"):
        config["format"] = {"type": "json_schema", "schema": schema}
    return config


def _taught(dialect: _Dialect, status: int, body: object) -> _Dialect | None:
    """The dialect that a refusal asks for, if it is about one: it names the field, and says that it is not taken."""
    if status not in {400, 422}:
        return None
    said = orjson.dumps(body, default=str).decode().lower()
    if not any(stem in said for stem in _NOT_TAKEN):
        return None
    if dialect.adaptive and any(field in said for field in ("adaptive", "effort")):
        return replace(dialect, adaptive=False)
    if dialect.temperature and "temperature" in said:
        return replace(dialect, temperature=False)
    return None


_NOT_TAKEN = ("not support", "unsupported", "deprecated", "not permitted", "expected tag", "unknown", "unrecognized")
