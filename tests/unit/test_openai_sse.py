import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.domain.errors import ProviderProtocolError
from runstream.providers.sse import EventReader

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
IGNORED = st.one_of(LINE.map(lambda text: ":" + text), st.sampled_from(["event: message", "id: 7", "dataset: x", "id"]))


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A stream's bytes and the data of its events; the end of each line is drawn anew."""
    sent = draw(st.sampled_from(["", "\ufeff"]))
    expected = []

    def end_line() -> None:
        nonlocal sent
        # LF right after CR would be that line's end, and not another one.
        sent += draw(st.sampled_from(["\r", "\r\n"] if sent.endswith("\r") else ["\n", "\r", "\r\n"]))

    for lines in draw(st.lists(st.lists(LINE, max_size=3), max_size=8)):
        for line in lines:
            for ignored in draw(st.lists(IGNORED, max_size=2)):
                sent += ignored
                end_line()
            sent += "data:" + (" " if line.startswith(" ") else draw(st.sampled_from(["", " "]))) + line
            end_line()
        for _ in range(draw(st.integers(1, 3))):
            end_line()
        if lines:
            expected.append("\n".join(lines).encode())
    return sent.encode(), expected


def read_all(stream: bytes, cuts: list[int]) -> list[bytes]:
    reader = EventReader(max_event_bytes=1_000_000)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    reads = [stream[start:end] for start, end in itertools.pairwise(edges)]
    return [data for read in reads for data in reader.feed(read)] + reader.close()


@given(streams(), st.lists(st.integers(min_value=0), max_size=20))
def test_every_way_to_cut_a_stream_into_reads_gives_the_same_events(
    stream: tuple[bytes, list[bytes]], cuts: list[int]
) -> None:
    sent, expected = stream
    assert read_all(sent, cuts) == expected
    assert read_all(sent, list(range(len(sent)))) == expected


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_is_given_out_with_the_byte_that_ends_it_and_not_later(end: bytes) -> None:
    reader = EventReader(max_event_bytes=100)
    assert reader.feed(b"data: a" + end) == []
    assert reader.feed(end[:1]) == [b"a"]


def test_an_event_that_the_end_of_the_stream_ends_is_given_out() -> None:
    reader = EventReader(max_event_bytes=100)
    assert reader.feed(b"data: a\n\ndata: [DONE]") == [b"a"]
    assert reader.close() == [b"[DONE]"]
    assert reader.close() == []


def test_an_event_that_never_ends_is_refused_after_what_came_before_it() -> None:
    reader = EventReader(max_event_bytes=100)
    assert reader.feed(b"data: a\n\ndata: " + b"x" * 100) == [b"a"]
    with pytest.raises(ProviderProtocolError, match="larger than 100 bytes"):
        reader.feed(b"x")


def test_an_event_that_passes_the_bound_with_the_read_that_ends_it_is_refused() -> None:
    reader = EventReader(max_event_bytes=100)
    assert reader.feed(b"data: " + b"x" * 50) == []
    with pytest.raises(ProviderProtocolError, match="larger than 100 bytes"):
        reader.feed(b"x" * 50 + b"\n\n")
    reader = EventReader(max_event_bytes=100)
    assert reader.feed(b"data: a") == []
    assert reader.feed(b"\n\n" + b"data: b\n\n" * 20) == [b"a", *[b"b"] * 20]


def test_an_event_within_the_bound_may_come_in_any_number_of_reads() -> None:
    reader = EventReader(max_event_bytes=1000)
    for _ in range(900):
        assert reader.feed(b"data:" if _ == 0 else b"x") == []
    assert reader.feed(b"\n\n") == [b"x" * 899]
