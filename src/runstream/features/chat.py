"""Messages in, the next message out."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from runstream.domain.prompt import Prompt
from runstream.domain.run import Caching

MOST_TOOLS = 128


class _Exact(BaseModel):
    """Takes what it names, as the type that it names: no `true` for 1, and nothing else beside."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Exact):
    type: Literal["text"]
    text: str


class ImageUrl(_Exact):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Exact):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Content = str | Annotated[list[Part], Field(min_length=1)]


class CalledFunction(_Exact):
    name: str
    arguments: Annotated[str, Field(description="JSON, where the model wrote it well and to its end.")]


class ToolCall(_Exact):
    """A call that a model makes, in the form of chat completions: what a run puts out can be sent back as it is."""

    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"]
    function: CalledFunction


class Message(_Exact):
    """`content` is text, or a list of parts where the model takes images.

    An assistant's message may have `tool_calls`, and then needs no content. A tool's answers the call that it names.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=MOST_TOOLS)] | None = None
    tool_call_id: Annotated[str, Field(min_length=1)] | None = Field(None, validate_default=True)
    content: Content | None = Field(None, validate_default=True)
    name: Annotated[str, Field(max_length=64)] | None = None

    @field_validator("tool_calls")
    @classmethod
    def _an_assistant_calls(cls, calls: list[ToolCall] | None, before: ValidationInfo) -> list[ToolCall] | None:
        if calls is not None and before.data.get("role", "assistant") != "assistant":
            raise ValueError("Only messages of the role 'assistant' have tool calls")
        return calls

    @field_validator("tool_call_id")
    @classmethod
    def _a_tool_answers(cls, call_id: str | None, before: ValidationInfo) -> str | None:
        role = before.data.get("role")
        if call_id is None and role == "tool":
            raise ValueError("A message of the role 'tool' names the call that it answers")
        if call_id is not None and role not in {"tool", None}:
            raise ValueError("Only messages of the role 'tool' answer a call")
        return call_id

    @field_validator("content")
    @classmethod
    def _something_is_said(cls, content: Content | None, before: ValidationInfo) -> Content | None:
        if content is None and before.data.get("tool_calls", ()) is None:
            raise ValueError("Only messages with tool calls can be without content")
        return content


class JsonSchema(_Exact):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextFormat(_Exact):
    type: Literal["text", "json_object"]


class SchemaFormat(_Exact):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class Function(_Exact):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: Annotated[dict[str, Any] | None, Field(description="A JSON schema.")] = None
    strict: bool | None = None


class Tool(_Exact):
    type: Literal["function"]
    function: Function


class ChosenFunction(_Exact):
    name: str


class ChosenTool(_Exact):
    type: Literal["function"]
    function: ChosenFunction


class ChatInput(_Exact):
    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=4)] | None = None
    response_format: Annotated[TextFormat | SchemaFormat, Field(discriminator="type")] | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | ChosenTool | None = None
    reasoning_effort: Literal["minimal", "low", "medium", "high"] | None = None

    @field_validator("tool_choice")
    @classmethod
    def _of_the_tools(cls, choice: str | ChosenTool | None, before: ValidationInfo) -> str | ChosenTool | None:
        if choice is None or "tools" not in before.data:
            return choice
        offered = {tool.function.name for tool in before.data["tools"] or ()}
        if not offered:
            raise ValueError("There are no tools to choose from")
        if isinstance(choice, ChosenTool) and choice.function.name not in offered:
            raise ValueError("There is no such tool")
        return choice


class Chat:
    name = "chat"
    prompt_version = "1"
    model = None
    moderation_required = True
    cache = Caching.OFF  # who asks again wants another answer
    input = ChatInput

    def prompt(self, input: Mapping[str, Any]) -> Prompt:
        return Prompt(**input)
