"""Who did what to which object, when, and from where."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, final

from runstream.domain.ids import new_id

_ID, _ADDRESS, _AGENT = 256, 64, 256
"""Characters that are kept."""


class Action(StrEnum):
    """`<type of the target>.<what was done>`. What each one says is in docs/audit.md."""

    RUN_SUBMITTED = "run.submitted"
    RUN_LISTED = "run.listed"
    RUN_READ = "run.read"
    RUN_EVENTS_READ = "run.events_read"
    RUN_ATTEMPTS_READ = "run.attempts_read"
    RUN_FEEDBACK_READ = "run.feedback_read"
    RUN_FEEDBACK_GIVEN = "run.feedback_given"
    RUN_TOKEN_CREATED = "run.token_created"  # noqa: S105
    RUN_CANCELLED = "run.cancelled"
    RUN_RETRIED = "run.retried"
    RUN_DELETED = "run.deleted"
    USER_ERASED = "user.erased"
    TENANT_EXPORTED = "tenant.exported"
    KEY_CREATED = "key.created"
    KEY_ROTATED = "key.rotated"
    KEY_REVOKED = "key.revoked"
    TOKEN_SECRET_ROTATED = "token_secret.rotated"  # noqa: S105
    WEBHOOK_CREATED = "webhook.created"
    WEBHOOK_CHANGED = "webhook.changed"
    WEBHOOK_ENABLED = "webhook.enabled"
    WEBHOOK_DISABLED = "webhook.disabled"
    WEBHOOK_DELETED = "webhook.deleted"
    WEBHOOK_SECRET_ROTATED = "webhook.secret_rotated"  # noqa: S105
    WEBHOOK_TESTED = "webhook.tested"
    DELIVERY_REDELIVERED = "delivery.redelivered"
    TENANT_CREATED = "tenant.created"
    TENANT_CHANGED = "tenant.changed"
    TENANT_SUSPENDED = "tenant.suspended"
    TENANT_RESUMED = "tenant.resumed"
    TENANT_REMOVAL_REQUESTED = "tenant.removal_requested"
    TENANT_REMOVED = "tenant.removed"
    PLAN_SET = "plan.set"
    PLAN_REMOVED = "plan.removed"
    FLAG_SET = "flag.set"
    FLAG_REMOVED = "flag.removed"


class ActorKind(StrEnum):
    """The kinds of principals, and who gives a command at a terminal."""

    OPERATOR = "operator"
    SERVER = "server"
    USER = "user"
    COMMAND = "command"


OF_THE_SERVICE: Final = frozenset({ActorKind.OPERATOR, ActorKind.COMMAND})
"""Those who run it. Where they are is not for tenants to see."""


@final
@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, for which `user` if for any, and from where.

    `id` is that of a key or a token; of a command, the name of the login. `address` is that of the client; of a
    command, the name of the machine.
    """

    kind: ActorKind
    id: str
    request_id: str
    user: str | None = None
    address: str | None = None
    user_agent: str | None = None

    def entry(self, action: Action, *, tenant: str | None, target: str | None, **details: Any) -> "Entry":
        """What is written of it. What is None is no detail."""
        now = datetime.now(UTC)
        told = {name: value for name, value in details.items() if value is not None}
        return Entry(new_id("aud", now.timestamp()), now, self, action, tenant, target, told)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is written. `tenant` is None for what is of the whole installation.

    `details` are few and short, and never content or a secret. Ids are in the order of time.
    `action` is an Action, or one that another version knows.
    """

    id: str
    at: datetime
    by: Actor
    action: str
    tenant: str | None
    target: str | None
    details: Mapping[str, Any]

    @property
    def target_type(self) -> str:
        return self.action.partition(".")[0]


def bounded(
    kind: ActorKind, id: str, request_id: str, *, user: str | None, address: str | None, user_agent: str | None
) -> Actor:
    """An actor, with as much as is kept of what a client says of itself."""
    return Actor(kind, id[:_ID], request_id, user, _printable(address, _ADDRESS), _printable(user_agent, _AGENT))


def _printable(text: str | None, most: int) -> str | None:
    return None if text is None else "".join(filter(str.isprintable, text))[:most]
