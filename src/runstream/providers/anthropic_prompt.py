"""A prompt's messages and tools in the form of the Messages protocol."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from runstream.domain.errors import ProviderRefused
from runstream.domain.prompt import Prompt

_SYSTEM = frozenset({"system", "developer"})
_JSON_OBJECT = "Answer with one JSON object and nothing else: no word before or after it, and no code fence."
_NOT_IN_AN_ID = re.compile(r"[^a-zA-Z0-9_-]")
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}
_Block = dict[str, Any]


def system_of(prompt: Prompt) -> str:
    """What system and developer messages say, wherever they stand: this protocol has one place for it."""
    texts = [
        text
        for message in prompt.messages
        if message.get("role") in _SYSTEM
        for block in _content(message.get("content"))
        if (text := block.get("text"))
    ]
    return "\n\n".join([*texts, *([_JSON_OBJECT] if _wants_json_in_words(prompt) else [])])


def messages_of(prompt: Prompt) -> list[dict[str, Any]]:
    """Turns of user and assistant: what follows each other from one side is one turn, tools' results are the user's.

    Raises `ProviderRefused` for what the protocol has no form for.
    """
    turns: list[dict[str, Any]] = []
    for message in prompt.messages:
        if message.get("role") in _SYSTEM:
            continue
        role = "assistant" if message.get("role") == "assistant" else "user"
        if not (blocks := list(_blocks(message))):
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def tools_of(prompt: Prompt) -> list[_Block]:
    return [_tool(tool) for tool in prompt.tools or ()]


def tool_choice_of(prompt: Prompt) -> _Block | None:
    choice = prompt.tool_choice
    if choice is None:
        return None
    if isinstance(choice, str):
        return {"type": _CHOICES.get(choice, choice)}
    return {"type": "tool", "name": choice["function"]["name"]}


def _wants_json_in_words(prompt: Prompt) -> bool:
    format_ = prompt.response_format or {}
    schema = (format_.get("json_schema") or {}).get("schema")
    return format_.get("type") == "json_object" or (format_.get("type") == "json_schema" and not schema)


def _blocks(message: Mapping[str, Any]) -> Iterator[_Block]:
    if message.get("role") == "tool":
        result: _Block = {"type": "tool_result", "tool_use_id": _id(message.get("tool_call_id"))}
        if content := list(_content(message.get("content"))):
            result["content"] = content
        yield result
        return
    yield from _content(message.get("content"))
    for call in message.get("tool_calls") or ():
        function = call["function"]
        yield {
            "type": "tool_use",
            "id": _id(call.get("id")),
            "name": function["name"],
            "input": _input(function),
        }


def _content(content: object) -> Iterator[_Block]:
    """Text of white space alone is left out: the server refuses it."""
    parts: list[Any] = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    for part in parts:
        if part.get("type") == "text":
            if part["text"].strip():
                yield {"type": "text", "text": part["text"]}
        elif part.get("type") == "image_url":
            yield {"type": "image", "source": _source(part["image_url"]["url"])}
        else:
            raise ProviderRefused(f"The Messages protocol has no form for a part of the type '{part.get('type')}'.")


def _source(url: str) -> _Block:
    if url[:5].lower() != "data:":
        return {"type": "url", "url": url}
    head, _, data = url[5:].partition(",")
    media_type, *parameters = head.split(";")
    if "base64" not in parameters:
        raise ProviderRefused("An image that is given as a data: URL must be in base64.")
    return {"type": "base64", "media_type": media_type.lower(), "data": data}


def _id(call_id: object) -> str:
    """Other providers' ids may have characters that this protocol refuses."""
    return _NOT_IN_AN_ID.sub("_", str(call_id))


def _input(function: Mapping[str, Any]) -> object:
    try:
        input_ = orjson.loads(function.get("arguments") or "{}")
    except orjson.JSONDecodeError:
        input_ = None
    if not isinstance(input_, dict):
        raise ProviderRefused("The arguments of a tool call in the messages are not a JSON object.")
    return input_


def _tool(tool: Mapping[str, Any]) -> _Block:
    function = tool["function"]
    schema = {"type": "object", **(function.get("parameters") or {})}
    written: _Block = {"name": function["name"], "input_schema": schema}
    for name in ("description", "strict"):
        if function.get(name):
            written[name] = function[name]
    return written
