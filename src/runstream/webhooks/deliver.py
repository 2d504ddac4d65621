"""Deliver webhooks: in every worker, apart from its runs, and what dies with a worker another one does again."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

import structlog

from runstream.crash_points import Point, reached
from runstream.domain.errors import Unavailable, whereabouts
from runstream.domain.principal import Owner
from runstream.domain.run import Run
from runstream.domain.webhook import DeliveryAttempt, Dispatch
from runstream.metrics import WEBHOOK_ATTEMPTS, WEBHOOKS_SWITCHED_OFF
from runstream.storage.deliveries import AT_ONCE, DeliveryStore, Failure, Waiting
from runstream.storage.runs import RunStore
from runstream.webhooks import message, signing
from runstream.webhooks.sender import Answer, Sender

_INTERVAL = 0.5
"""Seconds from one look to the next, where nothing is going on."""
_LOOKED_AT = 500
"""Webhooks that one look looks at; the next one goes on from there."""
_TENANTS_PART = 4
"""A tenant has no more than this part of the webhooks that are delivered to at once."""
_AFTER = 10.0
"""Seconds that an attempt's outcome may take to be written down: then it is another's turn."""
_FORGET_INTERVAL = 600.0
_GONE = 410
_SLOW_DOWN = frozenset({429, 502, 503, 504})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Schedule:
    """In seconds. `delays` are the waits before the second attempt, the third and so on; each is up to a fifth longer
    or shorter. `kept` is for how long it is known what became of a delivery."""

    delays: Sequence[float]
    kept: float

    def wait(self, number: int, asked: float | None) -> float | None:
        """After attempt `number`, where the receiver `asked` for a time; None after the last one."""
        if number > len(self.delays):
            return None
        return max(self.delays[number - 1] * random.uniform(0.8, 1.2), asked or 0)  # noqa: S311


class Deliver:
    """Webhooks take turns, a few deliveries at a time, so that one with much to be told, or whose receiver says
    nothing, keeps no other one waiting."""

    def __init__(
        self,
        *,
        store: DeliveryStore,
        runs: RunStore,
        sender: Sender,
        schedule: Schedule,
        slots: int,
        timeout: float,
        interval: float = _INTERVAL,
    ) -> None:
        """`slots` are deliveries at once; `timeout`, in seconds, is what the sender gives each."""
        self._store = store
        self._runs = runs
        self._sender = sender
        self._schedule = schedule
        self._most = max(1, slots // AT_ONCE)
        self._lease = timeout + _AFTER
        self._interval = interval
        self._at_work: dict[str, tuple[str, asyncio.Task[None]]] = {}
        """By webhook, with its tenant."""
        self._beyond = ""
        """The webhook that the last look came to, where it did not come to the end."""
        self._room = asyncio.Event()
        self._next_forgetting = 0.0

    async def run(self) -> None:
        """Deliver until cancelled; what is under way then goes on."""
        while True:
            try:
                await self.once()
                await self._forget()
            except Unavailable as error:
                log.warning("webhooks_not_looked_at", error=error.message)
            except Exception as error:
                log.error("webhooks_broke", **whereabouts(error))  # noqa: TRY400 - without what it says
            self._room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self._room.wait()

    async def once(self) -> None:
        """Begin what is due, as far as there is room. Raises Unavailable."""
        if len(self._at_work) >= self._most:
            return
        waiting = await self._store.waiting(beyond=self._beyond, limit=_LOOKED_AT)
        chosen = self._chosen(waiting)
        if not chosen:
            return
        taken = await self._store.take(chosen, lease=self._lease)
        for webhook_id, group in groupby(sorted(taken, key=lambda sent: sent.webhook.id), lambda sent: sent.webhook.id):
            batch = list(group)
            task = asyncio.create_task(self._batch(batch))
            self._at_work[webhook_id] = (batch[0].webhook.tenant, task)

    def _chosen(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        tenants = Counter(tenant for tenant, _ in self._at_work.values())
        a_tenants = max(1, self._most // _TENANTS_PART)
        chosen: list[Waiting] = []
        self._beyond = ""
        for number, each in enumerate(waiting, 1):
            if each.due and each.webhook not in self._at_work and tenants[each.tenant] < a_tenants:
                tenants[each.tenant] += 1
                chosen.append(each)
            if number == _LOOKED_AT or len(self._at_work) + len(chosen) == self._most:
                self._beyond = each.webhook
                break
        return chosen

    async def _batch(self, batch: Sequence[Dispatch]) -> None:
        try:
            await asyncio.gather(*(self._deliver(sent) for sent in batch))
        finally:
            del self._at_work[batch[0].webhook.id]
            self._room.set()

    async def _deliver(self, sent: Dispatch) -> None:
        """What fails here is due again when its lease is over."""
        try:
            await self._attempt(sent)
        except Unavailable as error:
            log.warning("webhook_outcome_not_written", delivery=sent.id, webhook=sent.webhook.id, error=error.message)
        except Exception as error:
            log.error("webhook_delivery_broke", delivery=sent.id, webhook=sent.webhook.id, **whereabouts(error))  # noqa: TRY400

    async def _attempt(self, sent: Dispatch) -> None:
        body = message.body(sent, await self._run(sent))
        now = datetime.now(UTC)
        secrets = [secret.value for secret in sent.webhook.secrets if secret.holds(now)]
        headers = signing.headers(sent.id, int(now.timestamp()), body, secrets)
        answer = await self._sender.post(sent.webhook.url, headers, body)
        reached(Point.WEBHOOK_ANSWERED)
        attempt = DeliveryAttempt(now, answer.seconds, answer.status, answer.error)
        if answer.accepted:
            WEBHOOK_ATTEMPTS.labels("delivered").inc()
            await self._store.delivered(sent, attempt)
        else:
            await self._failed(sent, attempt, answer)

    async def _run(self, sent: Dispatch) -> Run | None:
        if sent.run_id is None or not sent.webhook.include_output:
            return None
        return await self._runs.get(Owner(sent.webhook.tenant, None), sent.run_id)

    async def _failed(self, sent: Dispatch, attempt: DeliveryAttempt, answer: Answer) -> None:
        gone = answer.status == _GONE
        wait = None if gone else self._schedule.wait(sent.number, answer.retry_after)
        slow = answer.error == "timeout" or answer.status in _SLOW_DOWN
        failure = Failure(wait, rest=answer.retry_after if slow else None, slow=slow, gone=gone)
        WEBHOOK_ATTEMPTS.labels("failed" if wait is not None else "given_up").inc()
        if off := await self._store.failed(sent, attempt, failure):
            WEBHOOKS_SWITCHED_OFF.labels(off).inc()
            log.warning("webhook_switched_off", webhook=sent.webhook.id, tenant=sent.webhook.tenant, reason=off)

    async def _forget(self) -> None:
        if time.monotonic() >= self._next_forgetting:
            self._next_forgetting = time.monotonic() + _FORGET_INTERVAL
            await self._store.forget(self._schedule.kept)

    async def aclose(self, seconds: float) -> None:
        """Let what is under way come to its end for so long. What does not is another's, when its lease is over."""
        tasks = [task for _, task in self._at_work.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._sender.aclose()
