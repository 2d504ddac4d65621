"""A user of a tenant, who calls the API."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any, NamedTuple, Self

import httpx
from httpx_sse import EventSource

from runstream.domain.principal import Kind, Scope
from stack import Stack

DEADLINE = 60
WAIT = 30
TERMINAL = frozenset({"run.completed", "run.failed", "run.cancelled"})


class Sent(NamedTuple):
    """An event as a reader gets it."""

    id: str
    type: str
    data: dict[str, Any]


class Caller:
    """`async with Caller.of(stack, "acme", "ada") as caller`; what it does not wrap is asked of `http`."""

    def __init__(self, url: str, key: str, tenant: str, user: str) -> None:
        self.key = key
        self.tenant = tenant
        self.user = user
        self.http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=DEADLINE,
            limits=httpx.Limits(max_connections=None),
        )

    @classmethod
    def of(cls, stack: Stack, tenant: str, user: str, *, url: str | None = None) -> Self:
        return cls(url or stack.url, stack.create_key(tenant, user), tenant, user)

    @classmethod
    def server(
        cls, stack: Stack, tenant: str, *, url: str | None = None, scopes: Collection[Scope] | None = None
    ) -> Self:
        """The tenant's backend, whose own runs are of `server`."""
        return cls(url or stack.url, stack.create_key(tenant, "server", Kind.SERVER, scopes), tenant, "server")

    def at(self, url: str) -> Caller:
        """The same user at another API process."""
        return Caller(url, self.key, self.tenant, self.user)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def post(
        self, model: str = "sim:5", *, headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """Ask for a run; `fields` are put into the body."""
        return await self.http.post("/v1/runs", json=body(model, **fields), headers=headers)

    async def create(self, model: str = "sim:5", **fields: Any) -> str:
        """A new run's id."""
        answer = await self.post(model, **fields)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    async def get(self, run_id: str) -> dict[str, Any]:
        return (await self.http.get(f"/v1/runs/{run_id}")).raise_for_status().json()

    async def ended(self, run_id: str) -> dict[str, Any]:
        """The run, once it has ended."""
        run = (await self.http.get(f"/v1/runs/{run_id}", params={"wait": WAIT})).raise_for_status().json()
        assert run["finished_at"], run
        return run

    async def list(self, **query: Any) -> list[str]:
        """The ids on one page."""
        return [run["id"] for run in (await self.http.get("/v1/runs", params=query)).raise_for_status().json()["data"]]

    async def cancel(self, run_id: str) -> dict[str, Any]:
        return (await self.http.post(f"/v1/runs/{run_id}/cancel")).raise_for_status().json()

    async def events(self, run_id: str, after: str | None = None) -> list[Sent]:
        """All that one response says, until it ends."""
        return [event async for event in self.follow(run_id, after)]

    async def follow(self, run_id: str, after: str | None = None) -> AsyncIterator[Sent]:
        headers = {"Last-Event-ID": after} if after else {}
        async with self.http.stream("GET", f"/v1/runs/{run_id}/events", headers=headers) as response:
            response.raise_for_status()
            async for event in sent(response):
                yield event


async def sent(response: httpx.Response) -> AsyncIterator[Sent]:
    """The events of a response that is being read."""
    async for event in EventSource(response).aiter_sse():
        if event.event != "message":
            yield Sent(event.id, event.event, event.json())


def body(model: str = "sim:5", *, prompt: str = "Count", **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"feature": "chat", "model": model, "input": {"messages": messages}, **fields}


def words(number: int) -> str:
    """What the simulated provider says to `sim:<number>`."""
    return "".join(f"w{i} " for i in range(number))


def text_of(events: Iterable[Sent]) -> str:
    return "".join(event.data["text"] for event in events if event.type == "run.delta")


def own_model(count: int = 5, rate: float = 0) -> str:
    """A model that nobody else calls, so that the provider's count of its calls is the test's."""
    return f"sim:{count}:{rate:g}:0.{random.randrange(10**12):012}"
