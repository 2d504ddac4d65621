"""A transcript is the same however its text came in pieces, and can be taken up at every position of it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runstream.domain.cursor import START, Cursor
from runstream.domain.events import COMPLETED, DELTA, REASONING, RESTARTED, TOOL_CALL, Event
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
indices = st.integers(0, 2)
deltas = st.one_of(
    texts.map(lambda text: (DELTA, {"text": text})),
    texts.map(lambda text: (REASONING, {"text": text})),
    st.builds(lambda index, text: (TOOL_CALL, {"index": index, "arguments": text}), indices, texts),
)
openings = indices.map(lambda index: (TOOL_CALL, {"index": index, "id": f"call_{index}", "name": "look_up"}))
others = openings | st.sampled_from([(RESTARTED, {"attempt": ATTEMPT}), (COMPLETED, {"status": "completed"})])
said = st.lists(deltas | others, max_size=12)

Said = tuple[str, dict[str, Any]]

quick = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def transcript_of(events: list[Said]) -> Transcript:
    transcript = Transcript(ATTEMPT)
    for type_, data in events:
        transcript.append(type_, data)
    return transcript


def counted(type_: str, data: dict[str, Any]) -> str | None:
    """The text whose characters count, where the event has one."""
    return data.get("text") if type_ in {DELTA, REASONING} else data.get("arguments") if type_ == TOOL_CALL else None


def letters(events: list[Said]) -> list[tuple[Any, ...]]:
    """What takes one position each: a character of a delta, of whichever kind and call, or another event whole."""
    found: list[tuple[Any, ...]] = []
    for type_, data in events:
        text = counted(type_, data)
        if text is None:
            found.append((type_, json.dumps(data)))
        else:
            found += [(type_, data.get("index"), character) for character in text]
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
        text = counted(event.type, event.data)
        assert event.end - event.start == (1 if text is None else len(text))
        assert event.cursor == Cursor(ATTEMPT, event.end)
        position = event.end
    assert position == transcript.end


@quick
@given(said, st.data())
def test_the_way_a_text_was_split_cannot_be_seen(events, data):
    split: list[Said] = []
    for type_, value in events:
        text = counted(type_, value) or ""
        if len(text) > 1:
            field = "arguments" if type_ == TOOL_CALL else "text"
            cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=4)))
            pieces = zip([0, *cuts], [*cuts, len(text)], strict=True)
            split += [(type_, {**value, field: text[start:end]}) for start, end in pieces]
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
def test_deltas_are_joined_where_they_are_of_one_kind_and_one_call_and_only_there(events):
    joined = transcript_of(events).since(0)
    kinds = [(event.type, event.data.get("index"), counted(event.type, event.data) is not None) for event in joined]
    for kind, following in itertools.pairwise(kinds):
        assert kind != following or not kind[2]
    spoken = [(type_, data) for type_, data in events if counted(type_, data) != ""]
    alike = itertools.groupby(spoken, lambda event: (event[0], event[1].get("index"), counted(*event) is not None))
    assert len(joined) == sum(1 if counts else len(list(group)) for (_, _, counts), group in alike)


@quick
@given(said)
def test_the_text_is_that_of_the_deltas_alone_and_the_reasoning_stands_apart(events):
    transcript = transcript_of(events)
    assert transcript.text() == "".join(data["text"] for type_, data in events if type_ == DELTA)
    assert transcript.reasoning() == "".join(data["text"] for type_, data in events if type_ == REASONING)


@quick
@given(said)
def test_each_opened_call_has_all_pieces_of_its_own_arguments(events):
    calls = [data for type_, data in events if type_ == TOOL_CALL]
    assert transcript_of(events).tool_calls() == [
        {
            "id": f"call_{index}",
            "type": "function",
            "function": {
                "name": "look_up",
                "arguments": "".join(call.get("arguments", "") for call in calls if call["index"] == index),
            },
        }
        for index in sorted({call["index"] for call in calls if "id" in call})
    ]


@quick
@given(said)
def test_all_that_the_model_said_is_counted_and_nothing_else(events):
    spoken = {DELTA, REASONING, TOOL_CALL}
    expected = letters([(type_, data) for type_, data in events if type_ in spoken])
    assert transcript_of(events).characters == len(expected)


@quick
@given(said)
def test_a_transcript_survives_its_json_form(events):
    transcript = transcript_of(events)
    loaded = Transcript.load(ATTEMPT, json.loads(json.dumps(transcript.dump())))
    assert (loaded.end, loaded.since(0), loaded.text()) == (transcript.end, transcript.since(0), transcript.text())
    assert loaded.tool_calls() == transcript.tool_calls()
    assert Transcript.load(ATTEMPT, loaded.dump()).dump() == transcript.dump()


@quick
@given(said, st.data())
def test_a_part_of_a_delta_is_cut_between_characters(events, data):
    transcript = transcript_of(events)
    for event in transcript.since(0):
        text = counted(event.type, event.data)
        if text is not None:
            position = data.draw(st.integers(event.start + 1, event.end))
            part = event.after(position)
            assert part.cursor == event.cursor
            assert counted(part.type, part.data) == text[position - event.start :]
            assert part.data.get("index") == event.data.get("index")


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


def test_a_call_is_opened_by_one_position_and_its_arguments_are_counted_by_their_characters():
    opening = {"index": 0, "id": "call_0", "name": "look_up"}
    transcript = transcript_of([(TOOL_CALL, opening), (TOOL_CALL, {"index": 0, "arguments": '{"é":1}'})])
    assert [(event.start, event.end) for event in transcript.since(0)] == [(0, 1), (1, 8)]
    assert transcript.since(4)[0].data == {"index": 0, "arguments": '":1}'}
