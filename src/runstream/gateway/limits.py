"""Which limits hold for whom: as configured, as a tenant's plan says, and as is said of the tenant itself."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from runstream.domain.limits import Limit, Measure, Scope, Window, in_parts
from runstream.domain.terms import Source, TenantTerms, Terms

Bound = int | Decimal | str | None
"""An amount, as text where it came as JSON; None switches a limit off."""
Bounds = Mapping[str, Bound]
"""By setting, such as `tokens_per_day`."""
ScopedBounds = Mapping[Scope, Bounds]

_SETTINGS: Mapping[str, tuple[Measure, Window | None]] = {
    "requests_per_minute": (Measure.REQUESTS, Window.MINUTE),
    "concurrent_runs": (Measure.RUNS, None),
    **{f"{measure}_per_{window}": (measure, window) for measure in (Measure.TOKENS, Measure.COST) for window in Window},
}


class Holding(NamedTuple):
    """A limit as it holds, and where that is said."""

    name: str
    most: Bound
    source: Source


class Limits:
    """What is configured for every tenant, but for what is said otherwise of some, setting by setting.

    What a tenant's plan says goes before what is configured, and what is said in the plan's place before both.
    """

    def __init__(
        self,
        given: ScopedBounds,
        tenants: Mapping[str, ScopedBounds] = MappingProxyType({}),
        terms: Callable[[], Terms] = Terms,
    ) -> None:
        self._given = given
        self._tenants = tenants
        self._terms = terms
        self._of_others = _made(given)
        self._of_tenant = {tenant: _made(self._configured(tenant)) for tenant in tenants}
        every = [self._of_others, *self._of_tenant.values()]
        self.of_cost = any(limit.measure is Measure.COST for limits in every for limit in limits)
        """Whether any that is configured is: then what each limited run is to cost is known before it is made."""
        self._by_terms: dict[str, tuple[TenantTerms, Sequence[Limit]]] = {}

    def of(self, tenant: str) -> Sequence[Limit]:
        terms = self._terms().of(tenant)
        if not terms.allowances:
            return self._of_tenant.get(tenant, self._of_others)
        known = self._by_terms.get(tenant)
        if known is None or known[0] is not terms:
            bounds = {
                scope: {setting: most for setting, (most, _) in terms.bounds(scope, configured).items()}
                for scope, configured in self._configured(tenant).items()
            }
            known = self._by_terms[tenant] = (terms, _made(bounds))
        return known[1]

    def stamp(self, tenant: str) -> Hashable:
        """Another one whenever its limits may have become others, though they may be the same again."""
        return self._terms().of(tenant).stamp

    def holding(self, tenant: str) -> Sequence[Holding]:
        """Each limit of which anything is said."""
        terms = self._terms().of(tenant)
        return [
            Holding(f"{scope}.{setting}", most, source)
            for scope, configured in self._configured(tenant).items()
            for setting, (most, source) in terms.bounds(scope, configured).items()
        ]

    def _configured(self, tenant: str) -> ScopedBounds:
        own = self._tenants.get(tenant, {})
        return {scope: {**self._given.get(scope, {}), **own.get(scope, {})} for scope in Scope}


def _made(bounds: ScopedBounds) -> Sequence[Limit]:
    said = ((scope, setting, most) for scope, scoped in bounds.items() for setting, most in scoped.items())
    return _limits(tuple(each for each in said if each[2] is not None))


@lru_cache(maxsize=1024)
def _limits(bounds: tuple[tuple[Scope, str, int | Decimal | str], ...]) -> Sequence[Limit]:
    """The same for all tenants of a plan."""
    limits = []
    for scope, setting, most in bounds:
        measure, window = _SETTINGS[setting]
        units = in_parts(Decimal(most)) if measure is Measure.COST else int(most)
        limits.append(Limit(scope, measure, window, units))
    return tuple(limits)
