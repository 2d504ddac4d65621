"""On what terms tenants are served, as every process knows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Self

from runstream.domain.errors import FeatureNotAllowed, ModelNotAllowed, NotAllowed, SwitchedOff, TenantSuspended
from runstream.domain.flags import Flag, Guarded
from runstream.domain.limits import Party, Scope
from runstream.domain.patterns import Patterns

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Standing(StrEnum):
    """A suspended tenant's new runs are refused and its queued ones wait; one that is being removed is suspended."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    REMOVING = "removing"


class Source(StrEnum):
    """Where what holds was said: each goes before those above it."""

    CONFIGURATION = "configuration"
    PLAN = "plan"
    OVERRIDE = "override"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a plan, or what is said in its place of one tenant, allows: of None nothing is said.

    `limits` are by scope and setting, such as `tokens_per_day`; None switches a limit off. `features` and `models` are
    names and patterns; content is kept for `retention_days`.
    """

    limits: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _NOTHING)
    features: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    retention_days: int | None = None

    @classmethod
    def of(cls, said: Mapping[str, Any] | None) -> Self:
        """From JSON as it is stored."""
        said = said or {}
        features, models = (said.get(name) for name in ("features", "models"))
        return cls(
            said.get("limits") or _NOTHING,
            None if features is None else tuple(features),
            None if models is None else tuple(models),
            said.get("retention_days"),
        )


_SILENT = Allowance()


@dataclass(frozen=True, slots=True)
class TenantTerms:
    """`cancel_running` asks for what runs of a suspended tenant's to be cancelled.

    `stamp` is another one whenever what is allowed was changed, though it may be the same again.
    """

    standing: Standing = Standing.ACTIVE
    cancel_running: bool = False
    plan: str | None = None
    allowances: tuple[tuple[Source, Allowance], ...] = ()
    """The plan's, and what goes before it."""
    stamp: tuple[int, ...] = ()

    def holding(self, name: str) -> tuple[Any, Source]:
        """What is said of `features`, `models` or `retention_days`, and where."""
        for source, allowance in reversed(self.allowances):
            if (said := getattr(allowance, name)) is not None:
                return said, source
        return None, Source.CONFIGURATION

    def bounds(self, scope: Scope, configured: Mapping[str, Any]) -> dict[str, tuple[Any, Source]]:
        """What limits a scope, setting by setting, and where that is said."""
        bounds = {setting: (most, Source.CONFIGURATION) for setting, most in configured.items()}
        for source, allowance in self.allowances:
            bounds |= {setting: (most, source) for setting, most in allowance.limits.get(scope, {}).items()}
        return bounds

    def admit(self, feature: str, model: str) -> None:
        """Raises TenantSuspended, FeatureNotAllowed, ModelNotAllowed."""
        if self.standing is not Standing.ACTIVE:
            raise TenantSuspended
        if self.allowances:
            self._allow("features", feature, FeatureNotAllowed)
            self._allow("models", model, ModelNotAllowed)

    def _allow(self, kind: str, name: str, refusal: type[NotAllowed]) -> None:
        allowed, _ = self.holding(kind)
        if allowed is not None and not _patterns(allowed).find(name):
            param = kind.removesuffix("s")
            known = ", ".join(allowed) or "none"
            raise refusal(f"The tenant's plan does not allow the {param} {name!r}. It allows: {known}.", param=param)


ORDINARY = TenantTerms()


@dataclass(frozen=True, slots=True)
class Terms:
    """All of one instant, which `version` counts. Tenants of which nothing was said are not in it."""

    version: int = 0
    tenants: Mapping[str, TenantTerms] = field(default_factory=lambda: MappingProxyType({}))
    flags: tuple[Flag, ...] = ()

    def of(self, tenant: str) -> TenantTerms:
        return self.tenants.get(tenant, ORDINARY)

    def admit(self, party: Party, prompt_version: str, model: str) -> None:
        """May a run be made? Raises TenantSuspended, FeatureNotAllowed, ModelNotAllowed, SwitchedOff."""
        self.of(party.tenant).admit(party.feature, model)
        if self.flags:
            for flag, kind, name in _guarding(self.flags, party.feature, prompt_version, model):
                if not flag.decide(party.tenant, party.user).on:
                    whom = "for you" if flag.on else "for all"
                    raise SwitchedOff(f"{_said(kind, name)} is switched off {whom} (flag {flag.name!r}).", param=kind)

    def begin(self, feature: str, prompt_version: str, model: str) -> None:
        """May a run that waited be taken up? Raises SwitchedOff where a flag is off for all."""
        if self.flags:
            for flag, kind, name in _guarding(self.flags, feature, prompt_version, model):
                if not flag.on:
                    raise SwitchedOff(f"{_said(kind, name)} is switched off for all (flag {flag.name!r}).", param=kind)

    @property
    def cancelling(self) -> Sequence[str]:
        return [name for name, terms in self.tenants.items() if terms.cancel_running]

    @property
    def removing(self) -> Sequence[str]:
        return [name for name, terms in self.tenants.items() if terms.standing is Standing.REMOVING]


@lru_cache(maxsize=1024)
def _patterns(names: tuple[str, ...]) -> Patterns[bool]:
    return Patterns(dict.fromkeys(names, True))


@lru_cache(maxsize=1024)
def _guarding(
    flags: tuple[Flag, ...], feature: str, prompt_version: str, model: str
) -> Sequence[tuple[Flag, Guarded, str]]:
    """The flags that a run has to pass, each with what it is of."""
    of_run = {Guarded.FEATURE: feature, Guarded.PROMPT: f"{feature}/{prompt_version}", Guarded.MODEL: model}
    return [(flag, kind, name) for kind, name in of_run.items() for flag in flags if flag.guards(kind, name)]


def _said(kind: Guarded, name: str) -> str:
    return f"The {kind} {name!r}"
