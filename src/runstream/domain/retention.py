"""How long what was asked and answered is kept. What it cost is kept whatever is said here."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType

from runstream.domain.terms import Terms


class Content(StrEnum):
    """What of a run can be removed by itself, while its row stays."""

    INPUT = "input"
    """What was asked, and what the application wrote to it: subject, metadata, idempotency key."""
    OUTPUT = "output"
    """What was answered: text, reasoning, tool calls, errors' messages, findings, what feedback says; and so the
    transcript."""
    TRANSCRIPT = "transcript"
    """The events, of which a reader is told what was said in the order in which it was."""


Kept = Mapping[Content, timedelta]
"""For how long after a run's end; what is not named is kept for good."""


class Retention:
    """What is configured for every tenant, but for what is said otherwise of some.

    Days that a tenant's plan says, or what is said in the plan's place, go before both, and are of all kinds.
    """

    def __init__(
        self, given: Kept, tenants: Mapping[str, Kept] = MappingProxyType({}), terms: Callable[[], Terms] = Terms
    ) -> None:
        self._given = given
        self._tenants = tenants
        self._terms = terms

    def of(self, tenant: str) -> Kept:
        days, _ = self._terms().of(tenant).holding("retention_days")
        if days is None:
            return self._tenants.get(tenant, self._given)
        return dict.fromkeys(Content, timedelta(days=days))

    @property
    def any(self) -> bool:
        """Whether anything is to be removed at all."""
        by_terms = (terms.holding("retention_days")[0] for terms in self._terms().tenants.values())
        return bool(self._given) or any(self._tenants.values()) or any(days is not None for days in by_terms)
