"""What a feature asks of a model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked of a model, whichever it is.

    Messages, tools and formats have the form that chat completions gave them, whatever the provider speaks.
    """

    messages: Sequence[Mapping[str, Any]]
    temperature: float | None = None
    max_output_tokens: int | None = None
    stop: Sequence[str] | None = None
    response_format: Mapping[str, Any] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    """`auto`, `none`, `required`, or the one function that is to be called."""
    reasoning_effort: str | None = None
    """`minimal`, `low`, `medium` or `high`."""


def texts(message: Mapping[str, Any]) -> Iterator[str]:
    """What a message says: its content, whole or in parts, and the arguments of its tool calls. Images are no text."""
    content = message.get("content")
    for part in content if isinstance(content, list) else [{"text": content}]:
        if isinstance(text := part.get("text"), str):
            yield text
    for call in message.get("tool_calls") or ():
        yield call["function"]["arguments"]


def images(message: Mapping[str, Any]) -> Iterator[str]:
    """The URLs of a message's images, which may be their data."""
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        if "image_url" in part:
            yield part["image_url"]["url"]
