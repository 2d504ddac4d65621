"""What a run, an attempt or a stream comes to."""

from typing import Annotated

from pydantic import BaseModel

from runstream.api.schemas.fields import Absent, WhereThereIsSome
from runstream.domain.findings import Action, Where
from runstream.domain.usage import Usage
from runstream.runs.finish import usage_data


class UsageObject(BaseModel):
    """Tokens as the provider counted them; `cached_tokens` are part of `input_tokens`.

    Where the provider sent no count, as of a run that was stopped or cut short, they are `estimated`.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int
    estimated: bool

    @classmethod
    def of(cls, usage: Usage | None) -> "UsageObject | None":
        return cls.model_validate(usage_data(usage)) if usage else None


class Failure(BaseModel):
    """`categories` are there where the code is `content_blocked`: what it was refused for."""

    code: str
    message: str
    categories: Annotated[list[str] | Absent, WhereThereIsSome] = None


class FindingObject(BaseModel):
    """What a guard found: the `name` of a rule, or of a category of moderation, and what was done about it.

    `normalize` says that text was put into another form of the same meaning. `messages` of the input count from 0;
    they are the first ones that have it.
    """

    name: str
    action: Action
    where: Where
    messages: list[int]
