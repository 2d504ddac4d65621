"""Which providers and models a model's name stands for: for whom, and for which run."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from runstream.domain.errors import ConfigurationError, InvalidField
from runstream.domain.patterns import Patterns
from runstream.domain.run import Claim, Complexity, Run
from runstream.domain.usage import Rates, estimate

_MAX_MODEL = 256
"""Characters that a row keeps of a target's model: an attempt of a longer one could not be ended."""
_POSITIONS = 2**48
_REMEMBERED = 1000
"""Names of models, each of a tenant, whose targets are remembered: each run asks for them several times."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model of a provider. `label` is what it is configured as: there are as many as are configured.

    More than `concurrent_calls` at once of a worker are made only where there is no other target.
    """

    provider: str
    model: str
    label: str = field(default="other", compare=False)
    price: Rates | None = field(default=None, compare=False)
    concurrent_calls: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """`target` is `provider/model`. It is for runs whose input, in tokens, and complexity fit what is said of them.

    With a `canary` share it is for that part of these runs alone, which try it before all others.
    """

    target: str
    price: Rates | None = None
    min_input_tokens: int = 0
    max_input_tokens: int | None = None
    complexity: frozenset[Complexity] = frozenset()
    canary: Decimal | None = None
    concurrent_calls: int | None = None

    def named(self, asked: str) -> Target:
        provider, _, model = self.target.partition("/")
        return Target(provider, model.replace("*", asked), model, self.price, self.concurrent_calls)

    @property
    def takes_any_size(self) -> bool:
        return self.max_input_tokens is None and not self.min_input_tokens

    def takes_size(self, tokens: int) -> bool:
        return self.min_input_tokens <= tokens and (self.max_input_tokens is None or tokens <= self.max_input_tokens)

    def takes_complexity(self, complexity: Complexity | None) -> bool:
        return not self.complexity or complexity in self.complexity


@dataclass(frozen=True, slots=True)
class RouteQuery:
    """What the choice of a run's targets depends on: it is the same for each of its attempts."""

    run_id: str
    tenant: str
    model: str
    input: Mapping[str, Any]
    complexity: Complexity | None = None

    @classmethod
    def of(cls, run: Run | Claim) -> "RouteQuery":
        run_id = run.id if isinstance(run, Run) else run.run_id
        return cls(run_id, run.tenant, run.model, run.input or {}, run.complexity)


Models = Mapping[str, Sequence[TargetConfig]]
"""By name or pattern. A `*` in a target stands for the model that was asked for."""


class Routes:
    """A tenant's own names and patterns go before those of everybody. Nobody else knows of them."""

    def __init__(
        self, models: Models, providers: Collection[str], tenants: Mapping[str, Models] = MappingProxyType({})
    ) -> None:
        """Raises ConfigurationError."""
        _check("RUNSTREAM_MODELS", models, providers)
        for tenant, own in tenants.items():
            _check(f"RUNSTREAM_TENANT_MODELS of {tenant!r}", own, providers)
        self._of_all = Patterns(models)
        self._of_tenant = {tenant: Patterns(own) for tenant, own in tenants.items()}
        self._named = lru_cache(_REMEMBERED)(self._name)

    def names(self, tenant: str | None = None) -> list[str]:
        """The names that a tenant can ask for as they are, or everybody can."""
        own = self._of_tenant.get(tenant) if tenant is not None else None
        return list({**(own.exact if own else {}), **self._of_all.exact})

    def configured(self, tenant: str | None, model: str) -> Sequence[TargetConfig]:
        """All of a model's targets. Raises InvalidField where there is no such model, or a name gets too long."""
        return [config for config, _ in self._named(tenant, model)]

    def targets(self, query: RouteQuery) -> list[Target]:
        """Those that fit a run, in the order in which they are tried: the canary first if it is its share's.

        Raises InvalidField, as `configured` does, and where no target fits that has no share.
        """
        named = self._named(query.tenant, query.model)
        configs = [config for config, _ in named]
        sized = any(not config.takes_any_size for config in configs)
        tokens = estimate(query.input, 0).input_tokens if sized else 0
        fit = [each for each in named if each[0].takes_size(tokens) and each[0].takes_complexity(query.complexity)]
        ordinary = [target for config, target in fit if config.canary is None]
        if not ordinary:
            raise _refusal([config for config in configs if config.canary is None], tokens, query.complexity)
        canary = _canary(configs, query.run_id)
        return [*(target for config, target in fit if config is canary), *ordinary]

    def target(self, query: RouteQuery, provider: str, model: str) -> Target:
        """Where an answer came from, as it is configured now, whether or not it is one of the run's targets still."""
        target = Target(provider, model)
        try:
            known = [target for _, target in self._named(query.tenant, query.model)]
        except InvalidField:
            return target
        return next((each for each in known if each == target), target)

    def _name(self, tenant: str | None, model: str) -> Sequence[tuple[TargetConfig, Target]]:
        """What `configured` answers, each with the target that it stands for."""
        own = self._of_tenant.get(tenant) if tenant is not None else None
        configs = (own.find(model) if own else None) or self._of_all.find(model)
        if configs is None:
            raise InvalidField("No model of this name is configured.", param="model")
        named = [(config, config.named(model)) for config in configs]
        if any(len(target.model) > _MAX_MODEL for _, target in named):
            raise InvalidField(f"The model's own name is longer than {_MAX_MODEL} characters.", param="model")
        return named


def _canary(configs: Sequence[TargetConfig], run_id: str) -> TargetConfig | None:
    """The one whose share a run falls into. By its id: the same for each of its attempts, in every process."""
    shares = [config for config in configs if config.canary is not None]
    if not shares:
        return None
    position = Decimal(int.from_bytes(sha256(run_id.encode()).digest()[:6])) / _POSITIONS
    end = Decimal(0)
    for config in shares:
        end += config.canary or 0
        if position < end:
            return config
    return None


def _refusal(configs: Sequence[TargetConfig], tokens: int, complexity: Complexity | None) -> InvalidField:
    """Says what would have to be another: the complexity, or else the input's size."""
    right_size = [config for config in configs if config.takes_size(tokens)]
    if right_size:
        takes = sorted({each for config in right_size for each in config.complexity}, key=list(Complexity).index)
        declared = f"of the complexity '{complexity}'" if complexity else "that declares no complexity"
        return InvalidField(
            f"The model takes no run {declared}. For this input it takes: {', '.join(takes)}.", param="complexity"
        )
    right = [config for config in configs if config.takes_complexity(complexity)] or configs
    ranges = ", or ".join(dict.fromkeys(_range(config) for config in right))
    return InvalidField(f"The input is about {tokens} tokens. For such a run the model takes {ranges}.", param="input")


def _range(config: TargetConfig) -> str:
    if config.max_input_tokens is None:
        return f"{config.min_input_tokens} and more"
    return f"{config.min_input_tokens} to {config.max_input_tokens}"


def _check(variable: str, models: Models, providers: Collection[str]) -> None:
    for name, configs in models.items():
        if not configs:
            raise ConfigurationError(f"{variable}: {name!r} has no target.")
        if all(config.canary is not None for config in configs):
            raise ConfigurationError(f"{variable}: {name!r} has no target for the runs that are of no canary's share.")
        if sum(config.canary or 0 for config in configs) > 1:
            raise ConfigurationError(f"{variable}: the canary shares of {name!r} are more than 1 together.")
        for config in configs:
            provider, slash, model = config.target.partition("/")
            if not slash or not model or provider not in providers:
                raise ConfigurationError(
                    f"{variable}: the target {config.target!r} of {name!r} is not 'provider/model' "
                    f"with a provider of RUNSTREAM_PROVIDERS."
                )
            if len(model) > _MAX_MODEL:
                raise ConfigurationError(
                    f"{variable}: a target of {name!r} has a model's name of more than {_MAX_MODEL} characters."
                )
            if config.max_input_tokens is not None and config.max_input_tokens < config.min_input_tokens:
                raise ConfigurationError(
                    f"{variable}: the target {config.target!r} of {name!r} takes no input: its max_input_tokens "
                    f"are less than its min_input_tokens."
                )
