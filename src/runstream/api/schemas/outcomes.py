"""What a run, an attempt or a stream comes to."""

from pydantic import BaseModel

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
    code: str
    message: str
