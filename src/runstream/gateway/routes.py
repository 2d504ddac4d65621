"""Which provider and model a model's name stands for."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from runstream.domain.errors import ConfigurationError, InvalidField
from runstream.gateway.patterns import Patterns

_MAX_MODEL = 256
"""Characters that a row keeps of a target's model: an attempt of a longer one could not be ended."""


@dataclass(frozen=True, slots=True)
class Target:
    provider: str
    model: str


class Routes:
    """Names and patterns to targets. A `*` in a target stands for the model that was asked for."""

    def __init__(self, models: Mapping[str, Sequence[str]], providers: Collection[str]) -> None:
        """Raises ConfigurationError where a target is not `provider/model` with a provider that there is."""
        self._targets = Patterns(models)
        for name, targets in models.items():
            if not targets:
                raise ConfigurationError(f"RUNSTREAM_MODELS: {name!r} has no target.")
            for target in targets:
                provider, slash, _ = target.partition("/")
                if not slash or provider not in providers:
                    raise ConfigurationError(
                        f"RUNSTREAM_MODELS: the target {target!r} of {name!r} is not 'provider/model' "
                        f"with a provider of RUNSTREAM_PROVIDERS."
                    )

    def targets(self, model: str) -> list[Target]:
        """In the order in which they are tried. Raises InvalidField where nothing fits, or a name gets too long."""
        targets = self._targets.find(model)
        if targets is None:
            raise InvalidField("No model of this name is configured.", param="model")
        found = [_target(target, model) for target in targets]
        if any(len(target.model) > _MAX_MODEL for target in found):
            raise InvalidField(f"The model's own name is longer than {_MAX_MODEL} characters.", param="model")
        return found

    def names(self) -> list[str]:
        """The names that can be asked for as they are."""
        return list(self._targets.exact)


def _target(target: str, asked: str) -> Target:
    provider, _, model = target.partition("/")
    return Target(provider, model.replace("*", asked))
