"""A prompt, which has the form of chat completions, in that of the Responses protocol.

What is not known here is passed on as it is, for the provider to judge. A message's `name` has no place there, and a
tool is `strict` only if it says so: in chat completions that is the default, in responses it is not.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runstream.domain.errors import ProviderRefused
from runstream.domain.prompt import Prompt

_NO_PARAMETERS = {"type": "object", "properties": {}}


def fields_of(prompt: Prompt) -> dict[str, Any]:
    """The fields that the prompt has there. Raises `ProviderRefused` where it has stop sequences."""
    if prompt.stop:
        raise ProviderRefused(
            "The Responses protocol has no stop sequences: leave out `stop`, or give the model a target that knows it."
        )
    body: dict[str, Any] = {"input": list(_items(prompt))}
    for name in ("temperature", "max_output_tokens"):
        if (value := getattr(prompt, name)) is not None:
            body[name] = value
    if prompt.tools:
        body["tools"] = [_tool(tool) for tool in prompt.tools]
    if prompt.tool_choice is not None:
        body["tool_choice"] = _flat(prompt.tool_choice, "function")
    if prompt.response_format is not None:
        body["text"] = {"format": _flat(prompt.response_format, "json_schema")}
    if prompt.reasoning_effort is not None:
        body["reasoning"] = {"effort": prompt.reasoning_effort, "summary": "auto"}
    return body


def _items(prompt: Prompt) -> Iterator[Any]:
    for message in prompt.messages:
        role = message.get("role")
        if role == "assistant":
            yield from _said(message)
        elif role == "tool":
            output = _content(message.get("content"), "input_text")
            yield {"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": output or ""}
        elif role in {"system", "developer", "user"}:
            yield {"type": "message", "role": role, "content": _content(message.get("content"), "input_text")}
        else:
            yield message


def _said(message: Mapping[str, Any]) -> Iterator[Any]:
    """What the model said before: its text, or its refusal, and then the tools that it called."""
    content = _content(message.get("content"), "output_text")
    if not content and (refusal := message.get("refusal")):
        content = [{"type": "refusal", "refusal": refusal}]
    if content:
        yield {"type": "message", "role": "assistant", "content": content}
    for call in message.get("tool_calls") or ():
        if isinstance(function := call.get("function"), Mapping):
            called = {"name": function.get("name"), "arguments": function.get("arguments") or "{}"}
            yield {"type": "function_call", "call_id": call.get("id"), **called}
        else:
            yield call


def _content(content: object, text_type: str) -> object:
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [_part(part, text_type) for part in content]
    return content


def _part(part: Any, text_type: str) -> Any:
    if not isinstance(part, Mapping):
        return part
    match part.get("type"):
        case "text":
            return {"type": text_type, "text": part.get("text")}
        case "image_url":
            image = part.get("image_url")
            fields = image if isinstance(image, Mapping) else {"url": image}
            return {"type": "input_image", "image_url": fields.get("url"), "detail": fields.get("detail") or "auto"}
        case "file" if isinstance(file := part.get("file"), Mapping):
            return {"type": "input_file", **file}
    return part


def _tool(tool: Mapping[str, Any]) -> Any:
    if not isinstance(tool.get("function"), Mapping):
        return tool
    said = {name: value for name, value in _flat(tool, "function").items() if value is not None}
    return {"strict": False, "parameters": _NO_PARAMETERS, **said}


def _flat(value: Any, name: str) -> Any:
    """`{"type": name, name: {...}}` with the inner fields beside the type."""
    inner = value.get(name) if isinstance(value, Mapping) else None
    return {"type": name, **inner} if isinstance(inner, Mapping) else value
