"""The processes, on a Postgres of their own, and the providers: accounts of each kind at each server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.providers.cases import BAD, KEPT, LIMITED, MANY, MAX_ATTEMPTS, PROTOCOLS, UNKNOWN, Act, Case
from tests.chaos.stage import working_directory
from tests.foreign import Foreign, aimock, llmock
from tests.stack import Stack, outside_the_loop

from runstream.embedded import Postgres
from runstream.embedded.port import free_port
from runstream.storage.migrate import upgrade

APIS, WORKERS = 1, 2
KEYS = {BAD: ["bad"], MANY: ["bad", "limited", "limited-unsaid", "good"]}
LIMITS = {"tenant": {"tokens_per_day": 10**12, "cost_per_day": 10**6}}
SETTINGS = {
    "max_attempts": MAX_ATTEMPTS,
    "retry_delays": "[0.2]",
    "first_token_timeout": 5,
    "idle_timeout": 4,
    "limits": json.dumps(LIMITS),
}


@dataclass
class Scene:
    stack: Stack
    foreign: dict[str, Foreign]

    def tell(self, asked: str, case: Case) -> None:
        """Have other people's servers act out a request for the model of this name."""
        for act in case.acts:
            if server := self.foreign.get(act.server):
                server.will(act.model(asked), *(_answer(server, act, asked, number) for number in range(MAX_ATTEMPTS)))


def foreign_text(asked: str, number: int) -> str:
    """What other people's servers say to a call, so manieth of its target's."""
    return " ".join(f"{asked}#{number}.{word}" for word in range(8)) + " "


def foreign_arguments(asked: str, number: int) -> dict[str, str]:
    return {"text": foreign_text(asked, number)}


def _answer(server: Foreign, act: Act, asked: str, number: int) -> Mapping[str, Any]:
    text = foreign_text(asked, number)
    kind, _, status = act.script.partition(":")
    if kind == "status":
        return server.refusal(int(status), "not now", 1 if status == "429" else None)
    if kind == "reply":
        return server.reply(text)
    if kind == "calls":
        return server.calls(text, [{"name": "look", "arguments": foreign_arguments(asked, number)}])
    if kind == "late":
        return server.late(text)
    return server.broken(text, kind, after=8)


@contextmanager
def standing(cases: Sequence[Case], *, with_aimock: bool, keep: Path | None = None) -> Iterator[Scene]:
    """In a temporary directory, or in `keep`."""
    with working_directory(keep) as place, ExitStack() as open_:
        servers: list[Foreign] = [open_.enter_context(llmock())]
        if with_aimock:
            servers.append(open_.enter_context(aimock()))
        postgres = open_.enter_context(Postgres(place / "postgres", durable=False))
        outside_the_loop(lambda: upgrade(postgres.url))
        stack = Stack(place, database_url=postgres.url, environment=SETTINGS)
        open_.callback(stack.end)
        stack.start(apis=0, workers=0)
        accounts = _accounts(stack.provider_url, servers)
        given = {
            "providers": json.dumps(accounts),
            "models": json.dumps({f"{case.name}.*": [act.target for act in case.acts] for case in cases}),
            "default_model": "",
            "prices": json.dumps({f"{name}/*": {"input": 1, "output": 10} for name in accounts}),
        }
        for _ in range(WORKERS):
            stack.start_worker(**given)
        for _ in range(APIS):
            stack.start_api(**given)
        yield Scene(stack, {server.name: server for server in servers})


def _accounts(simulated: str, servers: Sequence[Foreign]) -> dict[str, dict[str, Any]]:
    away = f"http://127.0.0.1:{free_port()}/v1"
    accounts: dict[str, dict[str, Any]] = {}
    for kind in PROTOCOLS:
        bases = {f"simulated-{kind}{more}": simulated for more in ("", LIMITED, UNKNOWN, BAD, MANY)}
        bases |= {f"{server.name}-{kind}{more}": server.base_url(kind) for server in servers for more in ("", LIMITED)}
        for name, url in {**bases, f"away-{kind}": away}.items():
            keys = next((keys for ending, keys in KEYS.items() if name.endswith(ending)), ["good"])
            accounts[name] = {"kind": kind, "base_url": url, "api_keys": keys}
    accounts[KEPT] = {"kind": "openai-responses", "base_url": simulated, "api_keys": ["good"], "background": True}
    return accounts
