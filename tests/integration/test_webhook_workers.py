"""Workers deliver webhooks side by side: each once, whatever dies, and nobody waits for somebody else's receiver."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from receiver import hang, receiving, status
from runstream.domain.webhook import DeliveryStatus
from webhook_site import OTHER, TENANT, WebhookSite, standing


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[WebhookSite]:
    async with standing(database_url) as site:
        yield site


async def test_workers_side_by_side_deliver_each_once(site: WebhookSite) -> None:
    async with receiving() as one, receiving() as two:
        for receiver in (one, two):
            await site.webhook(receiver.url)
        for _ in range(3):
            await site.worker()
        for _ in range(15):
            await site.end()
        for receiver in (one, two):
            await receiver.until(15)
        await site.until_delivered()
    assert set(Counter(one.ids).values()) == set(Counter(two.ids).values()) == {1}
    assert set(one.ids) == set(two.ids), "an event has one id, whoever is told of it"


async def test_what_a_lost_worker_was_delivering_another_one_delivers(site: WebhookSite) -> None:
    async with receiving(hang) as receiver:
        webhook = await site.webhook(receiver.url)
        await site.end()
        lost = await site.worker()
        await receiver.until(1)
        site.lose(lost)
        receiver.behave = status(200)
        await site.worker()
        await site.looked_again()
        assert len(receiver.received) == 1, "it is still the first one's"
        await site.later(20)
        await site.until_delivered()
        (delivery,) = await site.deliveries(webhook)
        assert receiver.ids == [delivery.id] * 2


async def test_receivers_that_hang_keep_nobody_waiting(site: WebhookSite) -> None:
    async with receiving(hang) as hanging, receiving() as good:
        for _ in range(3):
            await site.webhook(hanging.url)
        await site.webhook(good.url, tenant=OTHER)
        for _ in range(10):
            await site.end()
        await site.worker(slots=20)
        await hanging.until(5)
        await site.end(tenant=OTHER)
        await good.until(1)
        assert hanging.at_once == 5, "one webhook of the tenant's, of the four that there is room for"


async def test_a_receiver_that_hung_is_left_alone_and_then_asked_one_at_a_time(site: WebhookSite) -> None:
    async with receiving(hang) as receiver:
        await site.webhook(receiver.url)
        for _ in range(12):
            await site.end()
        await site.worker(patience=0.5)
        await site.until("select count(*) = 5 from webhook_deliveries where jsonb_array_length(attempts) = 1")
        await site.looked_again()
        assert len(receiver.received) <= 5
        await site.database.execute("update webhooks set resting_until = now()")
        await site.until("select count(*) = 6 from webhook_deliveries where jsonb_array_length(attempts) = 1")
        assert receiver.most_at_once <= 5
        receiver.behave = status(200)
        await site.later(400)
        await site.until_delivered()


async def test_a_tenant_with_much_to_be_told_shares_with_one_that_has_little(site: WebhookSite) -> None:
    async with receiving() as busy, receiving() as quiet:
        await site.webhook(busy.url)
        await site.webhook(quiet.url, tenant=OTHER)
        for _ in range(30):
            await site.end()
        await site.end(tenant=OTHER)
        before: list[int] = []

        async def note(_: object) -> object:
            before.append(len(busy.received))
            return await status(204)(_)

        quiet.behave = note
        await site.worker(slots=5)
        await quiet.until(1)
        await site.until_delivered()
    assert before[0] <= 10, "two turns at the most"


async def test_what_was_delivered_late_counts_and_is_not_failed_by_who_came_after(site: WebhookSite) -> None:
    late = asyncio.Event()
    first = True

    async def slow_then_broken(received: object) -> object:
        nonlocal first
        if first:
            first = False
            await late.wait()
            return await status(200)(received)
        return await status(500)(received)

    async with receiving(slow_then_broken) as receiver:
        webhook = await site.webhook(receiver.url)
        await site.end()
        await site.worker()
        await receiver.until(1)
        await site.worker()
        await site.later(30)
        await site.until_tried(1)
        late.set()
        await site.until_delivered()
        (delivery,) = await site.deliveries(webhook)
        assert [attempt.status for attempt in delivery.attempts] == [500, 200]
        await site.later(3600)
        await site.looked_again()
    assert len(receiver.received) == 2


async def test_what_is_long_past_is_forgotten_and_nothing_else(site: WebhookSite) -> None:
    async with receiving() as receiver:
        webhook = await site.webhook(receiver.url)
        await site.end()
        await site.worker()
        await site.until_delivered()
        old = "evt_" + "0" * 26
        await site.database.execute(
            "insert into webhook_deliveries (webhook_id, id, tenant, event, data, status, ended_at) "
            "values ($1, $2, $3, 'webhook.test', '{}', 'failed', now())",
            webhook.id,
            old,
            TENANT,
        )
        assert len(await site.deliveries(webhook)) == 2
        await site.worker()
        await site.until("select count(*) = 1 from webhook_deliveries")
        (left,) = await site.deliveries(webhook)
        assert (left.status, left.id == old) == (DeliveryStatus.DELIVERED, False)
