"""Which provider and model a model's name stands for."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from runstream.domain.errors import ConfigurationError, InvalidField


@dataclass(frozen=True, slots=True)
class Target:
    provider: str
    model: str


class Routes:
    """Patterns to targets: an exact name first, then the longest pattern that fits.

    A `*` in a pattern fits any text; a `*` in a target stands for the model that was asked for.
    """

    def __init__(self, models: Mapping[str, Sequence[str]], providers: Collection[str]) -> None:
        """Raises ConfigurationError where a target is not `provider/model` with a provider that there is."""
        self._exact = {name: targets for name, targets in models.items() if "*" not in name}
        patterns = sorted((name for name in models if "*" in name), key=len, reverse=True)
        self._patterns = [(_expression(name), models[name]) for name in patterns]
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
        """In the order in which they are tried. Raises InvalidField where nothing fits."""
        return [_target(target, model) for target in self._find(model)]

    def names(self) -> list[str]:
        """The names that can be asked for as they are."""
        return list(self._exact)

    def _find(self, model: str) -> Sequence[str]:
        if model in self._exact:
            return self._exact[model]
        for expression, targets in self._patterns:
            if expression.fullmatch(model):
                return targets
        raise InvalidField("No model of this name is configured.", param="model")


def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)


def _target(target: str, asked: str) -> Target:
    provider, _, model = target.partition("/")
    return Target(provider, model.replace("*", asked))
