"""Flags: for whom a feature, a model or the version of a feature's prompt is switched on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from runstream.domain.patterns import Patterns

_POSITIONS = 2**48


class Guarded(StrEnum):
    """What is switched. A prompt's version is named after its feature, as `chat/2`."""

    FEATURE = "feature"
    MODEL = "model"
    PROMPT = "prompt"


class Reason(StrEnum):
    """Why it is on for somebody, or is not."""

    OFF = "off"
    """It is off for all."""
    TENANT = "tenant"
    """By the share of the tenant's users."""
    EVERYBODY = "everybody"
    """By the share of all others' users."""


class Decision(NamedTuple):
    """It is on where the user's `position` is below the `share`."""

    on: bool
    reason: Reason
    share: float
    position: float


@dataclass(frozen=True, slots=True, eq=False)
class Flag:
    """`tenants` are the shares of those tenants' users for which it is on, and `share` that of all others'.

    Each is equal to itself alone, and so is quickly looked up.
    """

    name: str
    kind: Guarded
    pattern: str
    on: bool = True
    share: float = 1.0
    tenants: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, name: str, rule: Mapping[str, Any]) -> Self:
        """From JSON as it is stored."""
        ((kind, pattern),) = rule["of"].items()
        said = {key: rule[key] for key in ("on", "share", "tenants") if key in rule}
        return cls(name, Guarded(kind), pattern, **said)

    def guards(self, kind: Guarded, name: str) -> bool:
        return kind is self.kind and bool(Patterns({self.pattern: True}).find(name))

    def decide(self, tenant: str, user: str) -> Decision:
        """The same for a user however often it is asked; a greater share keeps all that had it."""
        reason = Reason.TENANT if tenant in self.tenants else Reason.EVERYBODY
        share = self.tenants.get(tenant, self.share)
        position = _position(self.name, tenant, user)
        if not self.on:
            return Decision(False, Reason.OFF, share, position)
        return Decision(position < share, reason, share, position)


def _position(flag: str, tenant: str, user: str) -> float:
    """From 0 up to 1: neither a tenant's name nor a flag's has a NUL in it."""
    digest = sha256(f"{flag}\0{tenant}\0{user}".encode()).digest()
    return int.from_bytes(digest[:6]) / _POSITIONS
