import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.domain.errors import ProviderProtocolError
from runstream.providers.sse import EventReader

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
COMMENT = LINE.map(lambda text: ":" + text)
OTHER_FIELD = st.sampled_from(["event: message", "id: 7", "retry: 10", "dataset: x", "id"])
LINE_END = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A stream's bytes and the data of its events, every end of a line drawn anew."""
    parts: list[str] = [draw(st.sampled_from(["", "\ufeff"]))]
    expected = []
    for lines in draw(st.lists(st.lists(LINE, max_size=3), max_size=8)):
        for line in lines:
            parts += [
                draw(
                    st.one_of(
                        st.just(""), COMMENT.map(lambda text: text + "\n"), OTHER_FIELD.map(lambda text: text + "\n")
                    )
                )
            ]
            space = " " if line.startswith(" ") else draw(st.sampled_from(["", " "]))
            parts += ["data:", space, line, draw(LINE_END)]
        parts += [draw(LINE_END) for _ in range(draw(st.integers(1, 3)))]
        if lines:
            expected.append("\n".join(lines).encode())
    return "".join(parts).encode(), expected


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


def test_an_event_within_the_bound_may_come_in_any_number_of_reads() -> None:
    reader = EventReader(max_event_bytes=1000)
    for _ in range(900):
        assert reader.feed(b"data:" if _ == 0 else b"x") == []
    assert reader.feed(b"\n\n") == [b"x" * 899]
