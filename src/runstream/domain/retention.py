"""How long what was asked and answered is kept. What it cost is kept whatever is said here."""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType


class Content(StrEnum):
    """What of a run can be removed by itself, while its row stays."""

    INPUT = "input"
    """What was asked, and what the application wrote to it: subject, metadata, idempotency key."""
    OUTPUT = "output"
    """What was answered: text, reasoning, tool calls, errors' messages, findings; and so the transcript."""
    TRANSCRIPT = "transcript"
    """The events, of which a reader is told what was said in the order in which it was."""


Kept = Mapping[Content, timedelta]
"""For how long after a run's end; what is not named is kept for good."""


class Retention:
    """What is configured for every tenant, but for what is said otherwise of some."""

    def __init__(self, given: Kept, tenants: Mapping[str, Kept] = MappingProxyType({})) -> None:
        self._given = given
        self._tenants = tenants

    def of(self, tenant: str) -> Kept:
        return self._tenants.get(tenant, self._given)

    @property
    def any(self) -> bool:
        """Whether anything is to be removed at all."""
        return bool(self._given) or any(self._tenants.values())
