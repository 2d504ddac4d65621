"""Sentences of an answer that comes in pieces of any size, each judged whole before any of it is shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.domain.errors import ContentBlocked, ProviderUnavailable
from runstream.domain.findings import Finding
from runstream.gateway.guards.moderation import Moderation
from runstream.gateway.guards.output import Screen
from runstream.gateway.guards.sentences import LONGEST, Sentences
from runstream.providers.base import (
    Finished,
    Opened,
    Piece,
    ProviderConfig,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from runstream.providers.moderations import Moderations
from runstream.providers.simulated import Simulator

ANSWERS = [
    "Hello. How are you? Fine!\nPi is 3.14, e.g. He said \u201cno.\u201d And: (yes.) So",
    "一。二！三？\n",
    "no end at all",
    "... . ! ?",
    "",
]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Hello. How are you? ", ["Hello. ", "How are you? "]),
        ("It is 3.14 or v1.2.", []),
        ("He said “no.” Then (yes.) went", ["He said “no.” ", "Then (yes.) "]),
        ("a\nb", ["a\n"]),
        ("一。二", ["一。"]),
    ],
)
def test_a_sentence_ends_where_white_space_follows_its_mark(text: str, sentences: list[str]) -> None:
    ends = Sentences().ends(text)
    assert [text[start:end] for start, end in zip([0, *ends], ends, strict=False)] == sentences


@settings(max_examples=50)
@given(st.sampled_from(ANSWERS), st.data())
def test_ends_are_the_same_however_the_text_is_cut(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    sentences, ends, at = Sentences(), [], 0
    for cut in [*cuts, len(text)]:
        ends += [at + end for end in sentences.ends(text[at:cut])]
        at = cut
    assert ends == list(Sentences().ends(text))


@asynccontextmanager
async def screened(found: list[Finding]) -> AsyncIterator[Screen]:
    """A screen that lets nothing pass that says `bad`."""
    async with Simulator() as simulator:
        server = Moderations(ProviderConfig("judge", "openai", simulator.url, ("k",)), "flags:bad")
        async with aclosing(Moderation(server, timeout=20)) as moderation:
            yield Screen(moderation, required=True, found=found.append)


@pytest.mark.parametrize("between", [[], [ReasoningDelta("So. ")], [ToolCallDelta(0, "c", "f", "{}")]])
@pytest.mark.parametrize("first", ["ba", "x" * (LONGEST - 2) + "ba"])
async def test_what_stands_where_a_sentence_was_broken_is_judged_whole(between: list[Piece], first: str) -> None:
    async with screened([]) as screen:
        pieces = [Opened("r"), TextDelta(first), *between, TextDelta("d. "), Finished("stop")]
        _, raised = await passed(screen, pieces, None)
    assert raised is ContentBlocked


async def test_what_is_said_is_shown_when_something_of_another_kind_begins() -> None:
    """And not only when that ends, which may take long."""

    async def rest() -> AsyncIterator[Piece]:
        yield TextDelta("Let me look")
        yield ToolCallDelta(0, "c", "f", "{")
        await asyncio.get_running_loop().create_future()

    async with asyncio.timeout(20), screened([]) as screen, aclosing(screen.pieces([Opened("r")], rest())) as clean:
        assert [await anext(clean), await anext(clean)] == [Opened("r"), TextDelta("Let me look")]


WORDS = st.sampled_from(["word ", "end. ", "3.14 ", "bad ", "ba", "d. ", "\n", "。", "", "x" * (LONGEST - 1)])
PIECES = st.lists(
    st.builds(TextDelta, WORDS)
    | st.builds(ReasoningDelta, WORDS)
    | st.builds(ToolCallDelta, st.integers(0, 1), st.none(), st.sampled_from([None, "f", "bad"]), WORDS),
    max_size=12,
)


@settings(max_examples=50, deadline=None)
@given(PIECES, st.sampled_from([None, ProviderUnavailable]))
async def test_all_that_is_shown_was_judged_clean_and_all_that_is_clean_is_shown(
    pieces: list[Piece], failure: type[ProviderUnavailable] | None
) -> None:
    found: list[Finding] = []
    given = [Opened("r"), *pieces, *([] if failure else [Finished("stop")])]
    async with screened(found) as screen:
        shown, raised = await passed(screen, given, failure)
    said, kept = by_source(pieces), by_source(shown)
    assert all("bad" not in text for text in kept.values())
    assert all(said[source].startswith(text) for source, text in kept.items())
    clean = not any("bad" in text for text in said.values())
    assert raised is (ContentBlocked if not clean else failure)
    assert bool(found) == (not clean)
    assert screen.withheld == sum(len(text) for text in arguments(pieces)) - sum(len(text) for text in arguments(shown))
    if clean:
        assert kept == {source: text for source, text in said.items() if text}
        assert shown[0] == given[0]
        assert failure or shown[-1] == given[-1]


async def passed(
    screen: Screen, pieces: Sequence[Piece], failure: type[Exception] | None
) -> tuple[list[Piece], type[Exception] | None]:
    async def rest() -> AsyncIterator[Piece]:
        for piece in pieces[1:]:
            yield piece
        if failure:
            raise failure

    shown: list[Piece] = []
    try:
        async with aclosing(screen.pieces(pieces[:1], rest())) as clean:
            async for piece in clean:
                shown.append(piece)
    except (ContentBlocked, ProviderUnavailable) as error:
        return shown, type(error)
    return shown, None


def by_source(pieces: Sequence[Piece]) -> dict[tuple[str, int], str]:
    """What each kind says, and each tool call by its index, names before arguments."""
    said: dict[tuple[str, int], str] = {}
    for piece in pieces:
        match piece:
            case TextDelta(text) | ReasoningDelta(text):
                key = (type(piece).__name__, 0)
                said[key] = said.get(key, "") + text
            case ToolCallDelta():
                for key, text in ((("name", piece.index), piece.name or ""), (("call", piece.index), piece.arguments)):
                    said[key] = said.get(key, "") + text
    return {key: text for key, text in said.items() if text}


def arguments(pieces: Sequence[Piece]) -> list[str]:
    return [text for (kind, _), text in by_source(pieces).items() if kind != "name"]
