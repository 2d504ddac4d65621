import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.domain.errors import ProviderProtocolError
from runstream.domain.usage import Usage
from runstream.providers.chat_chunks import ChatAnswer

DONE = b"[DONE]"


def chunk(**fields: Any) -> bytes:
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "m", **fields}).encode()


def delta(content: Any = None, finish_reason: str | None = None, **fields: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": {"content": content, **fields}, "finish_reason": finish_reason}])


FINISH = delta(finish_reason="stop")


def units(text: str) -> list[str]:
    """The text's UTF-16 code units, a surrogate pair as its two halves."""
    encoded = text.encode("utf-16-le", "surrogatepass")
    return [chr(int.from_bytes(encoded[at : at + 2], "little")) for at in range(0, len(encoded), 2)]


@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.integers(min_value=0), max_size=5), st.data())
def test_text_cut_anywhere_even_within_a_surrogate_pair_is_put_together_whole(
    text: str, cuts: list[int], data: st.DataObject
) -> None:
    halves = units(text)
    edges = [0, *sorted(cut % (len(halves) + 1) for cut in cuts), len(halves)]
    events = [delta("".join(halves[start:end])) for start, end in itertools.pairwise(edges)] + [FINISH]
    at = data.draw(st.integers(0, len(events)))
    answer = ChatAnswer()
    got = answer.feed(events[:at]) + answer.feed(events[at:]) + answer.close()
    assert got == text.replace("\0", "\ufffd")
    assert answer.finished().reason == "stop"


@given(st.text(st.characters()), st.booleans())
def test_no_text_comes_out_that_utf8_or_postgres_cannot_hold(text: str, ascii_only: bool) -> None:
    answer = ChatAnswer()
    event = json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=ascii_only).encode(
        errors="surrogatepass"
    )
    got = answer.feed([event]) + answer.close()
    got.encode()
    assert "\0" not in got


@pytest.mark.parametrize(
    ("lone", "kept"),
    [("a\ud83d", "a\ufffd"), ("\ude42b", "\ufffdb"), ("\ud83dx", "\ufffdx"), ("\ud83d\ud83d\ude42", "\ufffd🙂")],
)
def test_half_a_surrogate_pair_becomes_one_replacement_character(lone: str, kept: str) -> None:
    answer = ChatAnswer()
    assert answer.feed([delta(lone)]) + answer.close() == kept


def test_bytes_that_are_not_utf8_are_replaced_and_the_rest_is_kept() -> None:
    answer = ChatAnswer()
    assert answer.feed([b'{"choices":[{"delta":{"content":"a\xffb"}}]}']) == "a\ufffdb"


@pytest.mark.parametrize(
    "unusual",
    [
        chunk(choices=[]),
        chunk(choices=None),
        chunk(),
        chunk(choices=[], prompt_filter_results=[{"prompt_index": 0}]),
        delta(None),
        delta(""),
        delta(role="assistant"),
        chunk(choices=[{"index": 0, "delta": None}]),
        chunk(choices=[{"index": 0}]),
        chunk(choices=[], error=None, usage=None),
        b"",
        b" ",
    ],
)
def test_a_chunk_without_text_changes_nothing(unusual: bytes) -> None:
    answer = ChatAnswer()
    assert answer.feed([unusual]) == ""
    assert not answer.started
    assert answer.feed([delta("a"), unusual, delta("b"), FINISH, DONE]) == "ab"
    assert answer.done
    assert answer.finished().reason == "stop"


def test_text_that_came_together_is_one_text() -> None:
    answer = ChatAnswer()
    assert answer.feed([delta("a"), delta("b"), delta("c")]) == "abc"


def test_a_refusal_and_content_in_parts_are_text() -> None:
    answer = ChatAnswer()
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert answer.feed([delta(parts), delta(refusal="I cannot.")]) == "abI cannot."


def test_reasoning_shows_that_the_model_has_begun() -> None:
    answer = ChatAnswer()
    assert answer.feed([delta(None, reasoning_content="hm")]) == ""
    assert answer.started


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}, Usage(9, 4, 8)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": None}, Usage(9, 4)),
        ({"prompt_tokens": 9}, Usage(9, 0)),
        ({"prompt_tokens": "9"}, None),
        ({"prompt_tokens": -1}, None),
        ([1], None),
        (None, None),
    ],
)
@pytest.mark.parametrize("apart", [True, False])
def test_usage_is_read_from_the_last_chunk_or_the_finishing_one(
    usage: object, expected: Usage | None, apart: bool
) -> None:
    finish = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    events = [chunk(**finish), chunk(choices=[], usage=usage)] if apart else [chunk(**finish, usage=usage)]
    answer = ChatAnswer()
    answer.feed([*events, DONE])
    assert answer.finished().usage == expected


def test_the_model_is_the_one_that_the_provider_names() -> None:
    answer = ChatAnswer()
    answer.feed([chunk(model="gpt-4o-mini-2024-07-18", choices=[{"delta": {}, "finish_reason": "length"}]), DONE])
    finished = answer.finished()
    assert (finished.model, finished.reason) == ("gpt-4o-mini-2024-07-18", "length")


@pytest.mark.parametrize(
    "broken",
    [
        b"{",
        b"not json",
        b"[1]",
        b"3",
        b"null",
        b"[" * 100_000,
        b'{"choices": 3}',
        b'{"choices": {"a": 1}}',
        b'{"choices": [3]}',
        b'{"choices": [{"delta": 3}]}',
        b'{"choices": [{"delta": ["a"]}]}',
    ],
)
def test_what_is_no_chunk_is_a_protocol_error_after_the_text_before_it(broken: bytes) -> None:
    answer = ChatAnswer()
    assert answer.feed([delta("a"), broken, delta("b")]) == "a"
    assert isinstance(answer.failure, ProviderProtocolError)


@pytest.mark.parametrize(
    "error",
    [{"message": "no", "code": 429}, "out of memory"],
)
def test_an_error_object_is_kept_after_the_text_before_it(error: object) -> None:
    answer = ChatAnswer()
    assert answer.feed([delta("a"), chunk(error=error), delta("b")]) == "a"
    assert answer.error == error


def test_a_finish_reason_of_error_is_one() -> None:
    answer = ChatAnswer()
    answer.feed([delta("a"), delta("", finish_reason="error")])
    assert answer.error


def test_an_end_without_a_finish_reason_is_a_protocol_error() -> None:
    answer = ChatAnswer()
    answer.feed([delta("a"), DONE])
    with pytest.raises(ProviderProtocolError, match="without a finish reason"):
        answer.finished()
