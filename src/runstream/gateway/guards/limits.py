"""How much may be asked at once."""

from dataclasses import dataclass

from runstream.domain.errors import InvalidField
from runstream.domain.prompt import Prompt, texts


@dataclass(frozen=True, slots=True)
class InputLimits:
    """Characters are Unicode code points of what messages say. None is no limit."""

    messages: int | None = None
    message_chars: int | None = None
    input_chars: int | None = None

    def check(self, prompt: Prompt) -> None:
        """Raises InvalidField."""
        if self.messages is not None and len(prompt.messages) > self.messages:
            raise _too_much(f"There are {len(prompt.messages)} messages: send no more than {self.messages}.")
        if self.message_chars is None and self.input_chars is None:
            return
        lengths = [sum(map(len, texts(message))) for message in prompt.messages]
        for number, length in enumerate(lengths):
            if self.message_chars is not None and length > self.message_chars:
                raise _too_much(f"messages.{number} has {length} characters: send no more than {self.message_chars}.")
        if self.input_chars is not None and sum(lengths) > self.input_chars:
            raise _too_much(f"The messages have {sum(lengths)} characters: send no more than {self.input_chars}.")


def _too_much(message: str) -> InvalidField:
    return InvalidField(message, param="input")
