"""Webhooks are delivered at least once when they should be, and never otherwise, whatever their receivers do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from receiver import DEADLINE, Behaviour, break_off, hang, receiving, status
from runstream.api.schemas.runs import RunObject
from runstream.domain.principal import Owner
from runstream.domain.run import Status
from runstream.domain.webhook import DeliveryStatus, WebhookEvent
from runstream.embedded.port import free_port
from webhook_site import DAY, DELAYS, ENDINGS, OTHER, PATIENCE, TENANT, WebhookSite, secret_of, standing


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[WebhookSite]:
    async with standing(database_url) as site:
        yield site


# What is told, and to whom


async def test_each_end_is_told_once_signed_and_as_the_run_is_shown_but_for_its_content(site: WebhookSite) -> None:
    async with receiving() as receiver:
        webhook = await site.webhook(receiver.url)
        run_ids = [await site.end(status) for status in ENDINGS]
        await site.worker()
        await receiver.until(3)
        await site.until_delivered()
    told = {each.told["data"]["id"]: each.verified_by(secret_of(webhook)) for each in receiver.received}
    for run_id, ended in zip(run_ids, ENDINGS, strict=True):
        run = await site.runs.get(Owner(TENANT, None), run_id)
        assert run
        shown = RunObject.of(run).model_dump(mode="json")
        assert told[run_id]["type"] == f"run.{ended}"
        assert told[run_id]["timestamp"] == shown["finished_at"]
        data = told[run_id]["data"]
        assert data == {name: shown[name] for name in data}
        missing = {"output", "findings", "feedback", "complexity", "priority", "max_attempts", "first_token_at"}
        assert set(shown) - set(data) == {*missing, "cancel_requested_at"}
    assert len(set(receiver.ids)) == 3


async def test_who_did_not_ask_is_switched_off_or_is_another_tenant_is_told_nothing(site: WebhookSite) -> None:
    async with receiving() as receiver, receiving() as wrong:
        right = await site.webhook(receiver.url, events=[WebhookEvent.RUN_FAILED])
        await site.webhook(wrong.url, events=[WebhookEvent.RUN_COMPLETED, WebhookEvent.RUN_CANCELLED])
        await site.webhook(wrong.url, tenant=OTHER)
        off = await site.webhook(wrong.url)
        await site.endpoints.change(TENANT, off.id, {}, enabled=False)
        gone = await site.webhook(wrong.url)
        await site.end(Status.FAILED)
        assert len(await site.deliveries(gone)) == 1
        await site.endpoints.remove(TENANT, gone.id)
        await site.worker()
        await site.until_delivered()
        await site.end(Status.FAILED)
        await receiver.until(2)
        await site.until_delivered()
    assert [each.told["type"] for each in receiver.received] == ["run.failed"] * 2
    assert wrong.received == []
    assert len(await site.deliveries(right)) == 2


async def test_the_output_is_told_to_who_asks_for_it_while_the_run_is_as_it_was(site: WebhookSite) -> None:
    async with receiving() as receiver:
        await site.webhook(receiver.url, include_output=True)
        await site.end()
        failed = await site.end(Status.FAILED)
        assert await site.runs.retry(TENANT, failed, was=Status.FAILED, attempt=1, reason="retry")
        await site.worker()
        await receiver.until(2)
    told = {each.told["type"]: each.told["data"] for each in receiver.received}
    assert told["run.completed"]["output"] == {"text": "said"}
    assert (told["run.failed"]["output"], told["run.failed"]["status"]) == (None, "failed")


async def test_what_is_deleted_with_its_run_is_not_told(site: WebhookSite) -> None:
    async with receiving() as receiver:
        await site.webhook(receiver.url)
        run_id = await site.end()
        await site.end(Status.FAILED)
        await site.database.execute("delete from runs where id = $1", run_id)
        await site.worker()
        await site.until_delivered()
    assert [each.told["type"] for each in receiver.received] == ["run.failed"]


async def test_runs_end_while_their_webhooks_are_being_removed(site: WebhookSite) -> None:
    async def change() -> None:
        for _ in range(15):
            webhook = await site.webhook("http://127.0.0.1:9/")
            await asyncio.sleep(0)
            await site.endpoints.remove(TENANT, webhook.id)

    async def runs() -> None:
        for _ in range(15):
            await site.end()

    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(change(), change(), runs(), runs())


# Receivers that fail


async def test_a_receiver_that_was_down_for_an_hour_is_told_of_all_that_happened_each_once(site: WebhookSite) -> None:
    port = free_port()
    webhook = await site.webhook(f"http://127.0.0.1:{port}/")
    for ended in ENDINGS:
        await site.end(ended)
    await site.worker()
    for times in range(1, 4):
        await site.until_tried(times)
        (error,) = {each.attempts[-1].error for each in await site.deliveries(webhook)}
        assert error == "not_connected"
        if times < 3:
            await site.later(1.2 * DELAYS[times - 1])
    async with receiving(port=port) as receiver:
        await site.later(3600)
        await site.until_delivered()
        assert Counter(Counter(receiver.ids).values()) == {1: 3}
        assert {each.verified_by(secret_of(webhook))["type"] for each in receiver.received} == set(WebhookEvent)
    shown = await site.endpoints.get(TENANT, webhook.id)
    assert shown.failing_since is None


FAULTS: dict[str, tuple[Behaviour, tuple[int | None, str | None]]] = {
    "server's": (status(500), (500, None)),
    "not there": (status(404), (404, None)),
    "not changed": (status(304), (304, None)),
    "hangs": (hang, (None, "timeout")),
    "breaks off": (break_off, (None, "disconnected")),
}


async def test_a_receiver_that_fails_is_asked_again_with_the_same_id_until_it_takes_it(site: WebhookSite) -> None:
    async with AsyncExitStack() as stack:
        failing = []
        for behaviour, said in FAULTS.values():
            receiver = await stack.enter_async_context(receiving(behaviour))
            failing.append((receiver, await site.webhook(receiver.url), said))
        await site.end()
        await site.worker(patience=2)
        for times in (1, 2):
            await site.until_tried(times)
            await site.later(1.2 * DELAYS[times - 1])
        await site.until_tried(3)
        for receiver, *_ in failing:
            receiver.behave = status(200)
        await site.later(1.2 * DELAYS[2])
        await site.until_delivered()
        await site.later(DAY)
        await site.looked_again()
        for receiver, webhook, said in failing:
            (delivery,) = await site.deliveries(webhook)
            assert [(each.status, each.error) for each in delivery.attempts] == [said] * 3 + [(200, None)]
            assert receiver.ids == [delivery.id] * 4
            assert len({each.body for each in receiver.received}) == 1
            for each in receiver.received:
                each.verified_by(secret_of(webhook))


async def test_redirects_are_followed_nowhere(site: WebhookSite) -> None:
    async with AsyncExitStack() as stack:
        inside = await stack.enter_async_context(receiving())
        webhooks = {}
        for code in (301, 302, 303, 307, 308):
            redirecting = await stack.enter_async_context(receiving(status(code, Location=inside.url)))
            webhooks[code] = await site.webhook(redirecting.url)
        await site.end()
        await site.worker()
        await site.until_tried(1)
        for code, webhook in webhooks.items():
            (delivery,) = await site.deliveries(webhook)
            assert (delivery.attempts[0].status, delivery.status) == (code, DeliveryStatus.PENDING)
    assert inside.received == []


async def test_a_receiver_is_left_alone_for_as_long_as_it_asks(site: WebhookSite) -> None:
    async with AsyncExitStack() as stack:
        webhooks = {}
        for code in (429, 500, 503):
            receiver = await stack.enter_async_context(receiving(status(code, Retry_After="7200")))
            webhooks[code] = await site.webhook(receiver.url)
        await site.end()
        await site.worker()
        await site.until_tried(1)
        wait = await site.database.fetchval("select min(extract(epoch from due_at - now())) from webhook_deliveries")
        assert 7100 < wait <= 7200
        resting = "select id from webhooks where resting_until > now() + interval '7100 s'"
        rests = {row["id"] for row in await site.database.fetch(resting)}
        assert rests == {webhooks[429].id, webhooks[503].id}, "of which it is for all deliveries"


async def test_after_a_day_of_attempts_a_delivery_has_failed_and_its_webhook_goes_on(site: WebhookSite) -> None:
    async with receiving(status(500)) as receiver:
        webhook = await site.webhook(receiver.url)
        await site.end()
        await site.worker()
        waited = 0.0
        for times in range(1, len(DELAYS) + 1):
            await site.until_tried(times)
            wait = await site.database.fetchval("select extract(epoch from due_at - now()) from webhook_deliveries")
            waited += float(wait)
            await site.later(float(wait))
        await site.until("select bool_and(status = 'failed') from webhook_deliveries")
        (delivery,) = await site.deliveries(webhook)
        assert len(receiver.received) == len(delivery.attempts) == len(DELAYS) + 1
        assert 0.8 * sum(DELAYS) - 1 < waited < 1.2 * sum(DELAYS)
        assert sum(DELAYS) > DAY
        shown = await site.endpoints.get(TENANT, webhook.id)
        assert shown.failing_since
        assert shown.disabled_at is None


async def test_a_webhook_that_nothing_reached_for_days_is_switched_off_and_says_so(site: WebhookSite) -> None:
    async with receiving(status(500)) as receiver:
        webhook = await site.webhook(receiver.url)
        await site.end()
        await site.worker()
        await site.until_tried(1)
        await site.database.execute("update webhook_deliveries set tries = $1", len(DELAYS))
        await site.database.execute("update webhooks set failing_since = now() - make_interval(secs => $1)", PATIENCE)
        await site.end(Status.FAILED)
        await site.until("select disabled_at is not null from webhooks")
        shown = await site.endpoints.get(TENANT, webhook.id)
        assert (shown.disabled_reason, shown.disabled_at is None) == ("failing", False)
        count = len(receiver.received)
        await site.end()
        await site.later(DAY)
        await site.looked_again()
        assert [each.status for each in await site.deliveries(webhook)] == ["failed"] * 2
        assert len(receiver.received) == count


async def test_a_receiver_that_is_gone_is_told_nothing_more(site: WebhookSite) -> None:
    async with receiving(status(410)) as receiver:
        webhook = await site.webhook(receiver.url)
        await site.end()
        await site.worker()
        await site.until("select disabled_reason = 'gone' from webhooks")
        await site.end()
        await site.later(DAY)
        await site.looked_again()
        assert [each.status for each in await site.deliveries(webhook)] == ["failed"]
    assert len(receiver.received) == 1
