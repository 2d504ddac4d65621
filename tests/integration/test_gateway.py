"""Where a call is made: at the first target that answers, past those that fail, with a key that is taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from asker import Asker
from clock import Clock
from raw_server import CALL, PATIENT, Answer, RawServer, answer, events, raw_server, refusal
from runstream.domain.errors import ProviderError, ProviderRateLimited, ProviderRefused, ProviderUnavailable
from runstream.gateway.circuits import Circuits
from runstream.gateway.generate import Gateway
from runstream.gateway.pricing import Prices
from runstream.gateway.routes import RouteQuery, Routes, TargetConfig
from runstream.gateway.turn import Lines
from runstream.providers.base import ProviderConfig, TextDelta
from runstream.providers.registry import build


def delta(content: str, finish: str | None = None) -> dict[str, object]:
    return {"model": "m-1", "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


WELL = answer(events(delta("Hello"), delta("", "stop"), "[DONE]"))
AWAY = refusal(503, {"error": {"message": "overloaded"}})
LIMITED = refusal(429, {"error": {"message": "slow down"}}, "Retry-After: 30")
UNKNOWN = refusal(401, {"error": {"message": "no such key"}})
REFUSED = refusal(400, {"error": {"message": "too long"}})
BROKEN = answer(events(delta("Hel")))


RUN = RouteQuery("run_1", "acme", "m", {})


class Case:
    """A gateway whose model `m` stands for one target at each server, in order."""

    def __init__(self, gateway: Gateway, servers: list[RawServer], clock: Clock) -> None:
        self.gateway = gateway
        self.servers = servers
        self.clock = clock
        self.tried: list[str] = []

    async def text(self) -> str:
        """What the model says; `tried` names the providers that were asked for it."""
        asker = Asker()
        self.tried = asker.tried
        async with self.gateway.generate(RUN, CALL.prompt, asker) as said:
            pieces = [*said.head, *[piece async for piece in said.rest]]
        assert not asker.names, "chat completions cannot be read on"
        return "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))

    async def texts(self, times: int) -> list[str]:
        return [await self.text() for _ in range(times)]

    async def fails(self, kind: type[ProviderError]) -> None:
        with pytest.raises(kind):
            await self.text()

    def keys(self, server: int = 0) -> list[str]:
        """Those that a server was asked with, in order."""
        heads = [request.head for request in self.servers[server].requests]
        return [head.partition("Bearer ")[2].partition("\r\n")[0] for head in heads]


@asynccontextmanager
async def case(
    *answers: Sequence[Answer], keys: tuple[str, ...] = ("k",), concurrent_calls: int | None = None
) -> AsyncIterator[Case]:
    """`answers`: of each server its answers in turn, the last one again and again. `concurrent_calls`: of each."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(raw_server(*each)) for each in answers]
        names = [chr(ord("a") + number) for number in range(len(servers))]
        providers = {
            name: build(ProviderConfig(name, "openai", server.url, keys))
            for name, server in zip(names, servers, strict=True)
        }
        for provider in providers.values():
            stack.push_async_callback(provider.aclose)
        targets = [TargetConfig(f"{name}/m", concurrent_calls=concurrent_calls) for name in names]
        routes = Routes({"m": targets}, providers)
        clock = Clock()
        circuits = Circuits(now=clock)
        lines = Lines({}, wait=0, reserved_output=0)
        yield Case(Gateway(routes, providers, PATIENT, Prices({}, {}), circuits, lines), servers, clock)


@pytest.mark.parametrize("first", [AWAY, LIMITED, UNKNOWN, REFUSED])
async def test_a_target_that_does_not_begin_to_answer_gives_way_to_the_next(first: bytes) -> None:
    async with case([first], [WELL]) as asked:
        assert await asked.text() == "Hello"
        assert asked.tried == ["a", "b"]


async def test_the_last_targets_reason_is_the_calls() -> None:
    async with case([AWAY], [REFUSED]) as asked:
        await asked.fails(ProviderRefused)
        assert asked.tried == ["a", "b"]


async def test_what_breaks_after_the_first_token_goes_to_no_other_target() -> None:
    async with case([BROKEN], [WELL]) as asked:
        await asked.fails(ProviderError)
        assert asked.tried == ["a"]


async def test_a_target_that_keeps_failing_is_passed_over_until_a_trial_finds_it_well() -> None:
    async with case([AWAY] * 5 + [WELL], [WELL]) as asked:
        assert await asked.texts(5) == ["Hello"] * 5
        assert asked.tried == ["a", "b"]
        assert await asked.texts(10) == ["Hello"] * 10
        assert asked.tried == ["b"]
        assert len(asked.servers[0].requests) == 5
        asked.clock.now += 10
        assert await asked.text() == "Hello"
        assert asked.tried == ["a"]
        assert await asked.text() == "Hello"
        assert asked.tried == ["a"]


async def test_a_call_that_answered_before_a_target_failed_makes_no_second_trial_when_it_ends() -> None:
    asker = Asker()

    async def never(_: asyncio.StreamWriter) -> None:
        trying.set()
        await asyncio.Event().wait()

    trying = asyncio.Event()
    async with case([WELL] + [AWAY] * 5 + [never], [WELL]) as asked:
        async with asked.gateway.generate(RUN, CALL.prompt, asker):
            assert await asked.texts(5) == ["Hello"] * 5
            asked.clock.now += 10
            trial = asyncio.create_task(asked.text())
            await asyncio.wait_for(trying.wait(), 20)
        assert asker.tried == ["a"]
        async with asked.gateway.generate(RUN, CALL.prompt, asker):
            pass
        assert asker.tried == ["a", "b"]
        trial.cancel()
        await asyncio.wait([trial])


async def test_a_target_that_keeps_failing_is_called_all_the_same_where_there_is_no_other() -> None:
    async with case([AWAY] * 8 + [WELL]) as asked:
        for _ in range(8):
            await asked.fails(ProviderUnavailable)
        assert await asked.text() == "Hello"
    async with case([AWAY] * 6 + [WELL], [AWAY]) as asked:
        for _ in range(6):
            await asked.fails(ProviderUnavailable)
        assert asked.tried == ["a", "b"]
        assert await asked.text() == "Hello"


async def test_refusals_and_limits_are_the_calls_own_and_open_no_circuit() -> None:
    async with case([REFUSED] * 8 + [WELL], [WELL]) as asked:
        await asked.texts(8)
        assert await asked.text() == "Hello"
        assert asked.tried == ["a"]


@pytest.mark.parametrize("first", [LIMITED, UNKNOWN])
async def test_a_key_that_is_not_taken_gives_way_to_the_next_at_once_and_rests(first: bytes) -> None:
    async with case([first, WELL], keys=("bad", "good")) as asked:
        assert await asked.texts(4) == ["Hello"] * 4
        assert asked.tried == ["a"]
        assert asked.keys() == ["bad", *["good"] * 4]


async def test_a_provider_whose_keys_all_rest_is_passed_over() -> None:
    async with case([LIMITED], [WELL], keys=("k1", "k2")) as asked:
        assert await asked.texts(3) == ["Hello"] * 3
        assert asked.tried == ["b"]
        assert asked.keys() == ["k1", "k2"]


async def test_where_all_keys_rest_and_there_is_no_other_target_the_call_is_made_and_its_reason_told() -> None:
    async with case([LIMITED], keys=("k1", "k2")) as asked:
        for _ in range(3):
            await asked.fails(ProviderRateLimited)
        assert len(asked.keys()) > 2


async def test_a_target_that_is_full_is_passed_over_until_a_call_ends_and_tried_where_all_are_full() -> None:
    async with case([WELL], [WELL], concurrent_calls=1) as asked:
        async with asked.gateway.generate(RUN, CALL.prompt, Asker()):
            await asked.text()
            assert asked.tried == ["b"]
            async with asked.gateway.generate(RUN, CALL.prompt, Asker()):
                await asked.text()
                assert asked.tried == ["a"]
        await asked.text()
        assert asked.tried == ["a"]


async def test_a_call_that_fails_or_is_left_makes_room_at_its_target() -> None:
    async with case([BROKEN, AWAY, WELL], [WELL], concurrent_calls=1) as asked:
        await asked.fails(ProviderError)
        await asked.text()
        assert asked.tried == ["a", "b"]
        await asked.text()
        assert asked.tried == ["a"]
