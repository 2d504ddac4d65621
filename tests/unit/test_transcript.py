"""A transcript is the same however its text came in pieces, and can be taken up at every position of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runstream.domain.cursor import START, Cursor
from runstream.domain.events import COMPLETED, DELTA, RESTARTED, Event
from runstream.domain.transcript import Transcript

ATTEMPT = 2
PIECES = (
    "plain ",
    "e\u0301",  # a letter and its combining accent
    "🙂",
    "👩\u200d👩\u200d👧",  # one family of five code points
    "🇪🇺",
    "𝒳",  # beyond the basic plane
    "שלום",
    "\u2028\r\n",
    "",
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(PIECES)
deltas = texts.map(lambda text: (DELTA, {"text": text}))
others = st.sampled_from([(RESTARTED, {"attempt": ATTEMPT}), (COMPLETED, {"status": "completed"})])
said = st.lists(deltas | others, max_size=12)

quick = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def transcript_of(events: list[tuple[str, dict[str, str]]]) -> Transcript:
    transcript = Transcript(ATTEMPT)
    for type_, data in events:
        transcript.append(type_, data)
    return transcript


def letters(events: list[tuple[str, dict[str, str]]]) -> list[tuple[str, str]]:
    """What takes one position each: a character of a delta, or another event whole."""
    found: list[tuple[str, str]] = []
    for type_, data in events:
        if type_ == DELTA:
            found += [(DELTA, character) for character in data["text"]]
        else:
            found.append((type_, json.dumps(data)))
    return found


def letters_of(events: list[Event]) -> list[tuple[str, str]]:
    return letters([(event.type, dict(event.data)) for event in events])


@pytest.mark.promise("P2")
@quick
@given(said)
def test_every_position_gives_exactly_what_comes_after_it(events):
    transcript = transcript_of(events)
    expected = letters(events)
    assert transcript.end == len(expected)
    for position in range(len(expected) + 1):
        assert letters_of(transcript.since(position)) == expected[position:]


@quick
@given(said, st.data())
def test_events_follow_each_other_without_a_gap_and_name_their_places(events, data):
    transcript = transcript_of(events)
    position = data.draw(st.integers(0, transcript.end))
    for event in transcript.since(position):
        assert event.attempt == ATTEMPT
        assert event.start == position
        assert event.end - event.start == (len(event.data["text"]) if event.type == DELTA else 1)
        assert event.cursor == Cursor(ATTEMPT, event.end)
        position = event.end
    assert position == transcript.end


@quick
@given(said, st.data())
def test_the_way_a_text_was_split_cannot_be_seen(events, data):
    split: list[tuple[str, dict[str, str]]] = []
    for type_, value in events:
        text = value.get("text", "")
        if type_ == DELTA and len(text) > 1:
            cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=4)))
            pieces = zip([0, *cuts], [*cuts, len(text)], strict=True)
            split += [(DELTA, {"text": text[start:end]}) for start, end in pieces]
        else:
            split.append((type_, value))
    assert transcript_of(split).since(0) == transcript_of(events).since(0)


@quick
@given(said, said)
def test_looking_at_a_transcript_changes_nothing_of_what_is_added_later(first, second):
    looked_at = transcript_of(first)
    for position in range(looked_at.end + 1):
        looked_at.since(position)
        looked_at.text()
    for type_, data in second:
        looked_at.append(type_, data)
        looked_at.since(looked_at.end - 1)
    assert looked_at.since(0) == transcript_of([*first, *second]).since(0)


@quick
@given(said)
def test_the_text_is_that_of_the_deltas_alone(events):
    assert transcript_of(events).text() == "".join(data["text"] for type_, data in events if type_ == DELTA)


@quick
@given(said)
def test_a_transcript_survives_its_json_form(events):
    transcript = transcript_of(events)
    loaded = Transcript.load(ATTEMPT, json.loads(json.dumps(transcript.dump())))
    assert (loaded.end, loaded.since(0), loaded.text()) == (transcript.end, transcript.since(0), transcript.text())
    assert Transcript.load(ATTEMPT, loaded.dump()).dump() == transcript.dump()


@quick
@given(said, st.data())
def test_a_part_of_a_delta_is_cut_between_characters(events, data):
    transcript = transcript_of(events)
    for event in transcript.since(0):
        if event.type == DELTA:
            position = data.draw(st.integers(event.start + 1, event.end))
            part = event.after(position)
            assert part.cursor == event.cursor
            assert part.data["text"] == event.data["text"][position - event.start :]


@quick
@given(said)
def test_a_reader_of_an_older_attempt_gets_all_and_one_of_a_newer_attempt_nothing(events):
    transcript = transcript_of(events)
    whole = transcript.since(0)
    assert transcript.after(START) == whole
    assert transcript.after(Cursor(ATTEMPT - 1, 1_000)) == whole
    assert transcript.after(Cursor(ATTEMPT, transcript.end)) == []
    assert transcript.after(Cursor(ATTEMPT + 1, 0)) == []
    for position in range(transcript.end):
        assert transcript.after(Cursor(ATTEMPT, position)) == transcript.since(position)


def test_positions_count_code_points_not_what_a_person_sees_as_one_character():
    transcript = transcript_of([(DELTA, {"text": "👩\u200d👩\u200d👧"})])
    assert transcript.end == 5
    assert [event.data["text"] for event in transcript.since(4)] == ["👧"]
