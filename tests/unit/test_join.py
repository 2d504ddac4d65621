"""What a reader does with frames, whatever came twice, too early, in other pieces, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.domain.cursor import Cursor
from runstream.domain.events import COMPLETED, DELTA, RESTARTED
from runstream.stream.hub import Frame
from runstream.stream.log import Entry
from runstream.stream.reader import join

Letters = list[str]
"""An attempt, one item for each position."""

BEGIN, END = "<begin>", "<end>"


@st.composite
def attempts(draw: st.DrawFn) -> dict[int, Letters]:
    texts = draw(st.lists(st.text("aé🙂\u0301", max_size=8), min_size=1, max_size=3))
    return {number: [BEGIN, *text, END] for number, text in enumerate(texts, 1)}


@st.composite
def pieces(draw: st.DrawFn, said: dict[int, Letters]) -> Frame:
    """Any stretch of any attempt: a delta of some characters, or another event."""
    number = draw(st.sampled_from(sorted(said)))
    letters = said[number]
    start = draw(st.integers(0, len(letters) - 1))
    if letters[start] in {BEGIN, END}:
        return frame(number, start, letters[start : start + 1])
    end = draw(st.integers(start + 1, len(letters) - 1))
    return frame(number, start, letters[start:end])


def frame(attempt: int, start: int, letters: Letters) -> Frame:
    special = {BEGIN: RESTARTED, END: COMPLETED}.get(letters[0])
    body = b"{}" if special else b'{"text":"%b"}' % "".join(letters).encode()
    entry = Entry(attempt, start, start + len(letters), special or DELTA, body)
    return Frame(entry, encoded(entry))


def encoded(entry: Entry) -> bytes:
    return b"%d-%d %b" % (entry.attempt, entry.end, entry.data)


def letters_in(entry: Entry) -> Letters:
    special = {RESTARTED: BEGIN, COMPLETED: END}.get(entry.type)
    return [special] if special else list(entry.event().data["text"])


@pytest.mark.promise("P2")
@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.data())
def test_joined_frames_go_on_exactly_where_the_reader_stands(data: Any) -> None:
    said = data.draw(attempts())
    attempt = data.draw(st.integers(0, max(said)))
    held = said[attempt][: data.draw(st.integers(0, len(said[attempt])))] if attempt else []
    arrived = data.draw(st.lists(pieces(said), max_size=12))
    joined, gap = join(Cursor(attempt, len(held)), arrived, encoded)
    for entry, form in joined:
        if entry.attempt > attempt:
            attempt, held = entry.attempt, []
        assert (entry.attempt, entry.start) == (attempt, len(held))
        held = [*held, *letters_in(entry)]
        assert held == said[attempt][: entry.end]
        assert form == encoded(entry)
    unseen = [frame for frame in arrived if (frame.entry.attempt, frame.entry.end) > (attempt, len(held))]
    assert gap == bool(unseen), "nothing that goes on from here may be left out unsaid"


@settings(derandomize=True, deadline=None)
@given(st.data())
def test_frames_that_overlap_in_any_way_lose_nothing(data: Any) -> None:
    letters = [BEGIN, *data.draw(st.text("aé🙂", min_size=1, max_size=12)), END]
    held = data.draw(st.integers(0, len(letters)))
    arrived = [frame(1, 0, letters[:1])]
    reached = 1
    while reached < len(letters) - 1:
        start = data.draw(st.integers(1, reached))
        reached = data.draw(st.integers(reached + 1, len(letters) - 1))
        arrived.append(frame(1, start, letters[start:reached]))
    arrived.append(frame(1, len(letters) - 1, letters[-1:]))
    joined, gap = join(Cursor(1, held), arrived, encoded)
    assert not gap
    assert [letter for entry, _ in joined for letter in letters_in(entry)] == letters[held:]
