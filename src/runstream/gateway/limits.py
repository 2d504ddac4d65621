"""Which limits hold for whom, as configured."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType

from runstream.domain.limits import Limit, Measure, Scope, Window, in_parts

Bounds = Mapping[str, int | Decimal | None]
"""By setting, such as `tokens_per_day`; None switches a limit off."""
ScopedBounds = Mapping[Scope, Bounds]

_SETTINGS: Mapping[str, tuple[Measure, Window | None]] = {
    "requests_per_minute": (Measure.REQUESTS, Window.MINUTE),
    "concurrent_runs": (Measure.RUNS, None),
    **{f"{measure}_per_{window}": (measure, window) for measure in (Measure.TOKENS, Measure.COST) for window in Window},
}


class Limits:
    """What is configured for every tenant, but for what is said otherwise of some, setting by setting."""

    def __init__(self, given: ScopedBounds, tenants: Mapping[str, ScopedBounds] = MappingProxyType({})) -> None:
        self._of_others = _limits(given)
        self._of_tenant = {
            tenant: _limits({scope: {**given.get(scope, {}), **own.get(scope, {})} for scope in Scope})
            for tenant, own in tenants.items()
        }

    def of(self, tenant: str) -> Sequence[Limit]:
        return self._of_tenant.get(tenant, self._of_others)

    @property
    def of_cost(self) -> bool:
        """Whether any is: then what a run is to cost must be known before it is made."""
        every = [self._of_others, *self._of_tenant.values()]
        return any(limit.measure is Measure.COST for limits in every for limit in limits)


def _limits(bounds: ScopedBounds) -> Sequence[Limit]:
    limits = []
    for scope, scoped in bounds.items():
        for setting, most in scoped.items():
            if most is not None:
                measure, window = _SETTINGS[setting]
                units = in_parts(Decimal(most)) if measure is Measure.COST else int(most)
                limits.append(Limit(scope, measure, window, units))
    return tuple(limits)
