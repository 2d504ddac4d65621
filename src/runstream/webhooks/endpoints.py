"""What a tenant does with its webhooks: make, change and try them, and have something delivered again."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import httpx

from runstream.domain.audit import Action, Actor
from runstream.domain.errors import Conflict, InvalidField, NotFound
from runstream.domain.ids import new_id
from runstream.domain.webhook import Delivery, DeliveryStatus, Secret, Webhook
from runstream.storage.webhooks import WebhookStore
from runstream.webhooks.addresses import is_public
from runstream.webhooks.signing import new_secret

MOST = 20
"""Webhooks of a tenant."""
_MOST_SECRETS = 5
"""Each makes the header longer by 47 bytes."""


class Endpoints:
    """Raise NotFound where there is no such webhook of the tenant's, and Unavailable.

    What is changed is in the audit log, where it is said who does it, `by`.
    """

    def __init__(self, store: WebhookStore, *, private: bool) -> None:
        """With `private`, all addresses may be sent to, and without TLS: for development."""
        self._store = store
        self._private = private

    async def add(
        self,
        tenant: str,
        *,
        url: str,
        events: Sequence[str],
        description: str,
        include_output: bool,
        by: Actor | None = None,
    ) -> Webhook:
        """A new webhook, with its secret. Raises InvalidField, and Conflict where there are too many."""
        self._check(url)
        webhook = Webhook(
            id=new_id("whk"),
            tenant=tenant,
            url=url,
            events=events,
            description=description,
            include_output=include_output,
            secrets=[Secret(new_secret())],
            created_at=datetime.now(UTC),
        )
        entry = by and by.entry(
            Action.WEBHOOK_CREATED, tenant=tenant, target=webhook.id, host=_host(url), include_output=include_output
        )
        if not await self._store.add(webhook, most=MOST, entry=entry):
            raise Conflict(f"You have {MOST} webhooks, and cannot have more: change or delete one.")
        return webhook

    async def list(self, tenant: str) -> Sequence[Webhook]:
        return await self._store.list(tenant)

    async def get(self, tenant: str, webhook_id: str) -> Webhook:
        return _found(await self._store.get(tenant, webhook_id))

    async def change(
        self,
        tenant: str,
        webhook_id: str,
        changes: Mapping[str, Any],
        enabled: bool | None,
        *,
        by: Actor | None = None,
    ) -> Webhook:
        """Put these in the place of what was there; a new `url` is as if nothing had ever failed. Raises InvalidField.

        One that is not `enabled` is told nothing, and what was pending for it ends; one that is again is told of what
        happens from now on.
        """
        url, told = changes.get("url"), sorted(changes)
        if url is not None:
            self._check(url)
            changes = {**changes, "failing_since": None, "resting_until": None}
        if changes:
            entry = by and by.entry(
                Action.WEBHOOK_CHANGED, tenant=tenant, target=webhook_id, changed=told, host=url and _host(url)
            )
            _found(await self._store.change(tenant, webhook_id, changes, entry=entry))
        if enabled is not None:
            switch = self._store.switch_on if enabled else self._store.switch_off
            action = Action.WEBHOOK_ENABLED if enabled else Action.WEBHOOK_DISABLED
            await switch(tenant, webhook_id, entry=by and by.entry(action, tenant=tenant, target=webhook_id))
        return await self.get(tenant, webhook_id)

    async def remove(self, tenant: str, webhook_id: str, *, by: Actor | None = None) -> None:
        entry = by and by.entry(Action.WEBHOOK_DELETED, tenant=tenant, target=webhook_id)
        if not await self._store.remove(tenant, webhook_id, entry=entry):
            raise _missing()

    async def rotate(self, tenant: str, webhook_id: str, overlap: float, *, by: Actor | None = None) -> Webhook:
        """A new secret, the first of all; those that there were sign for `overlap` more seconds, at the most.

        Raises Conflict where too many would sign, or somebody else rotates at the same time.
        """
        webhook = await self.get(tenant, webhook_id)
        now = datetime.now(UTC)
        until = now + timedelta(seconds=overlap)
        before = [Secret(each.value, min(each.until or until, until)) for each in webhook.secrets]
        secrets = [Secret(new_secret()), *(each for each in before if each.holds(now))]
        if len(secrets) > _MOST_SECRETS:
            raise Conflict("Four older secrets still sign: wait until one does no more, or rotate with 'overlap': 0.")
        entry = by and by.entry(Action.WEBHOOK_SECRET_ROTATED, tenant=tenant, target=webhook_id, overlap=overlap)
        rotated = await self._store.exchange_secrets(tenant, webhook_id, webhook.secrets, secrets, entry=entry)
        if rotated is None:
            raise Conflict("The secrets were rotated by somebody else at the same time: look whether that was meant.")
        return rotated

    async def test(self, tenant: str, webhook_id: str, *, by: Actor | None = None) -> Delivery:
        """A delivery of nothing but itself. Raises Conflict where the webhook is switched off."""
        await self._switched_on(tenant, webhook_id)
        event = new_id("evt")
        entry = by and by.entry(Action.WEBHOOK_TESTED, tenant=tenant, target=webhook_id, delivery=event)
        return _delivered(await self._store.add_test(tenant, webhook_id, event, entry=entry))

    async def deliveries(
        self, tenant: str, webhook_id: str, *, status: DeliveryStatus | None, before: str | None, limit: int
    ) -> Sequence[Delivery]:
        """A page, the newest first; `before` is the id of the last one of the page before."""
        await self.get(tenant, webhook_id)
        return await self._store.deliveries(tenant, webhook_id, status=status, before=before, limit=limit)

    async def redeliver(self, tenant: str, webhook_id: str, delivery_id: str, *, by: Actor | None = None) -> Delivery:
        """Have it attempted at once, and as often as a new one. Raises Conflict where the webhook is switched off."""
        await self._switched_on(tenant, webhook_id)
        entry = by and by.entry(Action.DELIVERY_REDELIVERED, tenant=tenant, target=delivery_id, webhook=webhook_id)
        return _delivered(await self._store.redeliver(tenant, webhook_id, delivery_id, entry=entry))

    async def _switched_on(self, tenant: str, webhook_id: str) -> None:
        if (await self.get(tenant, webhook_id)).disabled_at is not None:
            raise Conflict("The webhook is switched off: switch it on first, with 'enabled': true.")

    def _check(self, url: str) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            raise InvalidField("This is no URL such as https://example.com/hooks.", param="url") from None
        if parsed.scheme != "https" and not (self._private and parsed.scheme == "http"):
            raise InvalidField("A webhook's URL begins with https://.", param="url")
        if not parsed.host:
            raise InvalidField("The URL names no host.", param="url")
        if parsed.userinfo or parsed.fragment:
            raise InvalidField("A webhook's URL has no user name, no password and no '#'.", param="url")
        if not self._private and _is_literal_of_ours(parsed.host):
            raise InvalidField("The URL has to lead to a public address.", param="url")


def _host(url: str) -> str:
    """All of a URL that is no secret."""
    return httpx.URL(url).host[:255]


def _is_literal_of_ours(host: str) -> bool:
    """What can be said before a name is resolved. What counts is the address that is then connected to."""
    with suppress(ValueError):
        return not is_public(str(ip_address(host)))
    return host == "localhost" or host.endswith(".localhost")


def _found(webhook: Webhook | None) -> Webhook:
    if webhook is None:
        raise _missing()
    return webhook


def _delivered(delivery: Delivery | None) -> Delivery:
    if delivery is None:
        raise NotFound("There is no such delivery.")
    return delivery


def _missing() -> NotFound:
    return NotFound("There is no such webhook.")
