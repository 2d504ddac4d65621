import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.domain.errors import ProviderProtocolError
from runstream.domain.usage import Usage
from runstream.providers.base import Piece, ReasoningDelta, TextDelta, ToolCallDelta
from runstream.providers.chat_chunks import ChatAnswer

DONE = b"[DONE]"


def chunk(**fields: Any) -> bytes:
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "m", **fields}).encode()


def delta(content: Any = None, finish_reason: str | None = None, **fields: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": {"content": content, **fields}, "finish_reason": finish_reason}])


FINISH = delta(finish_reason="stop")


def said(pieces: list[Piece]) -> str:
    assert all(isinstance(piece, TextDelta) for piece in pieces)
    return "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))


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
    got = said(answer.feed(events[:at]) + answer.feed(events[at:]) + answer.close())
    assert got == text.replace("\0", "\ufffd")
    assert answer.finished().reason == "stop"


@given(st.text(st.characters()), st.booleans())
def test_no_text_comes_out_that_utf8_or_postgres_cannot_hold(text: str, ascii_only: bool) -> None:
    answer = ChatAnswer()
    event = json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=ascii_only).encode(
        errors="surrogatepass"
    )
    got = said(answer.feed([event]) + answer.close())
    got.encode()
    assert "\0" not in got


@pytest.mark.parametrize(
    ("lone", "kept"),
    [("a\ud83d", "a\ufffd"), ("\ude42b", "\ufffdb"), ("\ud83dx", "\ufffdx"), ("\ud83d\ud83d\ude42", "\ufffd🙂")],
)
def test_half_a_surrogate_pair_becomes_one_replacement_character(lone: str, kept: str) -> None:
    answer = ChatAnswer()
    assert said(answer.feed([delta(lone)]) + answer.close()) == kept


def test_bytes_that_are_not_utf8_are_replaced_and_the_rest_is_kept() -> None:
    answer = ChatAnswer()
    assert said(answer.feed([b'{"choices":[{"delta":{"content":"a\xffb"}}]}'])) == "a\ufffdb"


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
    assert said(answer.feed([unusual])) == ""
    assert not answer.started
    assert said(answer.feed([delta("a"), unusual, delta("b"), FINISH, DONE])) == "ab"
    assert answer.done
    assert answer.finished().reason == "stop"


def test_text_that_came_together_is_one_text() -> None:
    answer = ChatAnswer()
    assert answer.feed([delta("a"), delta("b"), delta("c")]) == [TextDelta("abc")]


def test_a_refusal_and_content_in_parts_are_text() -> None:
    answer = ChatAnswer()
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert said(answer.feed([delta(parts), delta(refusal="I cannot.")])) == "abI cannot."


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_told_apart_from_text_in_the_order_in_which_both_came(field: str) -> None:
    answer = ChatAnswer()
    pieces = answer.feed(
        [delta(None, **{field: "h"}), delta("", **{field: "m"}), delta("a"), delta("b", **{field: "?"})]
    )
    assert pieces == [ReasoningDelta("hm"), TextDelta("a"), ReasoningDelta("?"), TextDelta("b")]
    assert answer.started


def test_reasoning_among_the_parts_of_content_is_reasoning() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    assert ChatAnswer().feed([delta([thinking, {"type": "text", "text": "a"}])]) == [
        ReasoningDelta("hm"),
        TextDelta("a"),
    ]


def tool(index: int | None = 0, call_id: str | None = None, name: str | None = None, arguments: Any = "") -> bytes:
    fields = {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}
    return delta(None, tool_calls=[{name: value for name, value in fields.items() if value is not None}])


def opened(index: int, call_id: str, name: str) -> ToolCallDelta:
    return ToolCallDelta(index, call_id, name, "")


def more(index: int, arguments: str) -> ToolCallDelta:
    return ToolCallDelta(index, None, None, arguments)


def test_tool_calls_are_opened_and_their_arguments_come_in_pieces() -> None:
    answer = ChatAnswer()
    assert answer.feed([delta("Let me see."), tool(0, "c1", "look"), tool(0, arguments='{"a"')]) == [
        TextDelta("Let me see."),
        opened(0, "c1", "look"),
        more(0, '{"a"'),
    ]
    assert answer.feed(
        [tool(0, arguments=":1"), tool(0, arguments="}"), tool(1, "c2", "go", "{"), tool(1, arguments="}")]
    ) == [
        more(0, ":1}"),
        opened(1, "c2", "go"),
        more(1, "{}"),
    ]
    assert answer.started


def test_tool_calls_may_take_turns() -> None:
    answer = ChatAnswer()
    answer.feed([tool(0, "c1", "look"), tool(1, "c2", "go")])
    assert answer.feed([tool(1, arguments="b"), tool(0, arguments="a"), tool(1, arguments="c")]) == [
        more(1, "b"),
        more(0, "a"),
        more(1, "c"),
    ]


@pytest.mark.parametrize("index", [0, None])
def test_whole_tool_calls_at_one_index_are_told_apart_by_their_ids(index: int | None) -> None:
    answer = ChatAnswer()
    assert answer.feed([tool(index, "c1", "look", {"a": 1}), tool(index, "c2", "go", "{}")]) == [
        opened(0, "c1", "look"),
        more(0, '{"a":1}'),
        opened(1, "c2", "go"),
        more(1, "{}"),
    ]


def test_an_id_that_is_repeated_with_each_piece_opens_one_call() -> None:
    assert ChatAnswer().feed([tool(0, "c1", "look", "{"), tool(0, "c1", None, "}")]) == [
        opened(0, "c1", "look"),
        more(0, "{}"),
    ]


def test_a_tool_call_without_an_id_is_given_one() -> None:
    assert ChatAnswer().feed([tool(3, None, "look")]) == [opened(0, "call_0", "look")]


def test_a_tool_call_without_a_name_is_a_protocol_error() -> None:
    answer = ChatAnswer()
    assert answer.feed([delta("a"), tool(0, "c1", None, "{}")]) == [TextDelta("a")]
    assert isinstance(answer.failure, ProviderProtocolError)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}, Usage(9, 4, 8)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": None}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 10}}, Usage(9, 4, 9)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": -1}}, Usage(9, 4)),
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
    assert said(answer.feed([delta("a"), broken, delta("b")])) == "a"
    assert isinstance(answer.failure, ProviderProtocolError)


@pytest.mark.parametrize(
    "error",
    [{"message": "no", "code": 429}, "out of memory"],
)
def test_an_error_object_is_kept_after_the_text_before_it(error: object) -> None:
    answer = ChatAnswer()
    assert said(answer.feed([delta("a"), chunk(error=error), delta("b")])) == "a"
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
