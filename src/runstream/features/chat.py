"""Messages in, the next message out."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from runstream.domain.prompt import Prompt


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


class Message(_Exact):
    """`content` is text, or a list of parts where the model takes images."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1)]
    name: Annotated[str, Field(max_length=64)] | None = None


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


class ChatInput(_Exact):
    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=4)] | None = None
    response_format: Annotated[TextFormat | SchemaFormat, Field(discriminator="type")] | None = None


class Chat:
    name = "chat"
    prompt_version = "1"
    model = None
    input = ChatInput

    def prompt(self, input: Mapping[str, Any]) -> Prompt:
        return Prompt(**input)
