"""What a feature is: a named use of a model, with the shape of its input and the prompt made from it."""

from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import BaseModel

from runstream.domain.prompt import Prompt
from runstream.domain.run import Caching


class Feature(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def prompt_version(self) -> str: ...

    @property
    def model(self) -> str | None:
        """The model where the request names none; None leaves it to RUNSTREAM_DEFAULT_MODEL."""
        ...

    @property
    def moderation_required(self) -> bool:
        """Whether what moderation cannot judge is refused; otherwise it is flagged, where moderation is on."""
        ...

    @property
    def cache(self) -> Caching:
        """What a run does where its request does not say so."""
        ...

    @property
    def input(self) -> type[BaseModel]: ...

    def prompt(self, input: Mapping[str, Any]) -> Prompt:
        """The prompt for an input that `input` has validated."""
        ...
