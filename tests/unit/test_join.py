"""What a reader does with frames, whatever came twice, too early, in other pieces, or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.domain.cursor import Cursor
from runstream.domain.events import COMPLETED, DELTA, REASONING, RESTARTED, TOOL_CALL
from runstream.stream.hub import Frame
from runstream.stream.log import Entry
from runstream.stream.reader import join

Letter = tuple[str, Any, str]
"""Of a delta: its type, the index of its call, one character of it. Of another event: its type, and its data."""

Letters = list[Letter]
"""An attempt, one item for each position."""

BEGIN: Letter = (RESTARTED, None, "{}")
OPEN: Letter = (TOOL_CALL, None, '{"index":0,"id":"a","name":"b"}')
END: Letter = (COMPLETED, None, "{}")
WHOLE = (BEGIN, OPEN, END)
KINDS = ((DELTA, None), (REASONING, None), (TOOL_CALL, 0), (TOOL_CALL, 1))


@st.composite
def spoken(draw: st.DrawFn) -> Letters:
    """What an attempt says between its beginning and its end."""
    letters: Letters = []
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            letters.append(OPEN)
        type_, index = draw(st.sampled_from(KINDS))
        letters += [(type_, index, letter) for letter in draw(st.text("aé🙂\u0301", max_size=5))]
    return letters


@st.composite
def attempts(draw: st.DrawFn) -> dict[int, Letters]:
    said = draw(st.lists(spoken(), min_size=1, max_size=3))
    return {number: [BEGIN, *letters, END] for number, letters in enumerate(said, 1)}


def reach(letters: Letters, start: int) -> int:
    """Where an entry that begins at `start` may end at most: one entry is of one kind, and one call."""
    end = start + 1
    while letters[start] not in WHOLE and letters[end] not in WHOLE and letters[end][:2] == letters[start][:2]:
        end += 1
    return end


@st.composite
def pieces(draw: st.DrawFn, said: dict[int, Letters]) -> Frame:
    """Any stretch of any attempt: a delta of some characters, or another event."""
    number = draw(st.sampled_from(sorted(said)))
    letters = said[number]
    start = draw(st.integers(0, len(letters) - 1))
    end = draw(st.integers(start + 1, reach(letters, start)))
    return frame(number, start, letters[start:end])


def frame(attempt: int, start: int, letters: Letters) -> Frame:
    type_, index, body = letters[0]
    if letters[0] not in WHOLE:
        text = "".join(letter for _, _, letter in letters)
        call = {} if index is None else {"index": index}
        body = json.dumps({**call, "text" if index is None else "arguments": text}, ensure_ascii=False)
        body = body.replace(": ", ":").replace(", ", ",")
    entry = Entry(attempt, start, start + len(letters), type_, body.encode())
    return Frame(entry, encoded(entry))


def encoded(entry: Entry) -> bytes:
    return b"%d-%d %b" % (entry.attempt, entry.end, entry.data)


def letters_in(entry: Entry) -> Letters:
    data = json.loads(entry.data)
    text = data.get("text", data.get("arguments"))
    if text is None:
        return [(entry.type, None, entry.data.decode())]
    return [(entry.type, data.get("index"), letter) for letter in text]


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
    letters = [BEGIN, *data.draw(spoken()), END]
    held = data.draw(st.integers(0, len(letters)))
    arrived: list[Frame] = []
    reached = 0
    while reached < len(letters):
        begins = [start for start in range(reached + 1) if reach(letters, start) > reached]
        start = data.draw(st.sampled_from(begins))
        reached = data.draw(st.integers(reached + 1, reach(letters, start)))
        arrived.append(frame(1, start, letters[start:reached]))
    joined, gap = join(Cursor(1, held), arrived, encoded)
    assert not gap
    assert [letter for entry, _ in joined for letter in letters_in(entry)] == letters[held:]
