import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.domain.errors import ProviderAnswerLost, ProviderProtocolError
from runstream.domain.usage import Usage
from runstream.providers.base import Piece, ReasoningDelta, Resumable, TextDelta, ToolCallDelta
from runstream.providers.responses_events import ResponseAnswer
from runstream.providers.sse import EventReader


def event(kind: str, **fields: Any) -> bytes:
    return json.dumps({"type": kind, **fields}).encode()


def delta(text: Any, item: Any = 0, part: Any = 0) -> bytes:
    return event("response.output_text.delta", delta=text, output_index=item, content_index=part)


def summary(text: str, item: int = 0, part: int = 0) -> bytes:
    return event("response.reasoning_summary_text.delta", delta=text, output_index=item, summary_index=part)


def arguments(text: str, item: int) -> bytes:
    return event("response.function_call_arguments.delta", delta=text, output_index=item)


def added(item: Any, index: Any = 0) -> bytes:
    return event("response.output_item.added", item=item, output_index=index)


def item_done(item: Any, index: int = 0) -> bytes:
    return event("response.output_item.done", item=item, output_index=index)


def function_call(call_id: str, name: str, text: str = "") -> dict[str, Any]:
    return {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "name": name, "arguments": text}


def message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def response(status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "status": status, "model": "m-1", "error": None, **fields}


def end(status: str = "completed", **fields: Any) -> bytes:
    return event(f"response.{status}", response=response(status, **fields))


CREATED = event("response.created", response=response("in_progress"))
USAGE = {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 8}}


def numbered(events: list[bytes]) -> list[bytes]:
    return [json.dumps({**json.loads(data), "sequence_number": number}).encode() for number, data in enumerate(events)]


def told(pieces: list[Piece]) -> list[Piece]:
    """The pieces with what follows each other joined: the same for every way in which they came."""
    joined: list[Piece] = []
    for piece in pieces:
        match joined[-1:], piece:
            case [TextDelta(before)], TextDelta(text):
                joined[-1] = TextDelta(before + text)
            case [ReasoningDelta(before)], ReasoningDelta(text):
                joined[-1] = ReasoningDelta(before + text)
            case [ToolCallDelta() as last], ToolCallDelta(name=None) if last.index == piece.index:
                joined[-1] = ToolCallDelta(last.index, last.id, last.name, last.arguments + piece.arguments)
            case _:
                joined.append(piece)
    return joined


RICH = numbered(
    [
        CREATED,
        event("response.in_progress", response=response("in_progress")),
        added({"type": "reasoning", "summary": []}),
        summary("Well, "),
        summary("well."),
        summary("And then?", part=1),
        item_done({"type": "reasoning", "summary": [{"text": "Well, well."}, {"text": "And then?"}]}),
        added({"type": "message", "content": []}, 1),
        event("response.content_part.added", output_index=1, content_index=0, part={"type": "output_text"}),
        delta("Hel", 1),
        delta("lo 🙂 ", 1),
        event("response.output_text.annotation.added", annotation={}),
        delta("日本語", 1),
        event("response.output_text.done", output_index=1, content_index=0, text="Hello 🙂 日本語"),
        item_done(message("Hello 🙂 日本語"), 1),
        added(function_call("c1", "look"), 2),
        arguments('{"a"', 2),
        arguments(":1}", 2),
        item_done(function_call("c1", "look", '{"a":1}'), 2),
        added(function_call("c2", "go"), 3),
        item_done(function_call("c2", "go", "{}"), 3),
        event("response.web_search_call.searching", output_index=4),
        end(usage=USAGE),
    ]
)
RICH_OUTPUT = [
    {"type": "reasoning", "summary": [{"text": "Well, well."}, {"text": "And then?"}]},
    message("Hello 🙂 日本語"),
    function_call("c1", "look", '{"a":1}'),
    function_call("c2", "go", "{}"),
]
RICH_PIECES = [
    ReasoningDelta("Well, well.\n\nAnd then?"),
    TextDelta("Hello 🙂 日本語"),
    ToolCallDelta(0, "c1", "look", '{"a":1}'),
    ToolCallDelta(1, "c2", "go", "{}"),
]
STREAM = b"".join(b"event: x\ndata: " + data + b"\n\n" for data in RICH)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_every_way_to_cut_an_answer_into_reads_gives_the_same_pieces(cuts: list[int]) -> None:
    answer, reader = ResponseAnswer(), EventReader(1_000_000)
    edges = [0, *sorted(cuts), len(STREAM)]
    reads = [STREAM[start:stop] for start, stop in itertools.pairwise(edges)]
    pieces = [piece for read in reads for piece in answer.feed(reader.feed(read))] + answer.close()
    assert told(pieces) == RICH_PIECES
    assert (answer.failure, answer.error) == (None, None)
    finished = answer.finished()
    assert (finished.reason, finished.model, finished.usage) == ("tool_calls", "m-1", Usage(9, 4, 8))


@given(st.lists(st.integers(0, len(RICH) - 1), max_size=4), st.booleans())
def test_an_answer_that_is_resumed_anywhere_or_looked_at_in_the_end_gives_the_same_pieces(
    cuts: list[int], looked_at: bool
) -> None:
    """Also where a stream begins before the place that was asked for."""
    answer = ResponseAnswer(in_background=True)
    pieces: list[Piece] = []
    for cut in sorted(cuts):
        begin = 0 if answer.sequence is None else max(0, answer.sequence - 1)
        pieces += answer.feed(RICH[begin:cut])
        assert not answer.ended
    if looked_at:
        pieces += answer.feed_whole(json.dumps(response(output=RICH_OUTPUT, usage=USAGE)).encode())
    else:
        pieces += answer.feed(RICH)
    assert told(pieces + answer.close()) == [Resumable("resp_1"), *RICH_PIECES]
    assert answer.ended
    assert answer.finished().usage == Usage(9, 4, 8)


def test_text_that_came_together_is_one_text() -> None:
    assert ResponseAnswer().feed([CREATED, delta("a"), delta("b")]) == [TextDelta("ab")]


def test_a_refusal_is_text_and_reasoning_that_is_shown_itself_is_reasoning() -> None:
    thought = event("response.reasoning_text.delta", delta="hm", output_index=0, content_index=0)
    refusal = event("response.refusal.delta", delta="I cannot.", output_index=1, content_index=0)
    assert ResponseAnswer().feed([thought, refusal]) == [ReasoningDelta("hm"), TextDelta("I cannot.")]


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (end(), "stop"),
        (end("incomplete", incomplete_details={"reason": "max_output_tokens"}), "length"),
        (end("incomplete", incomplete_details={"reason": "content_filter"}), "content_filter"),
        (end("incomplete", incomplete_details={"reason": "something new"}), "something new"),
        (end("incomplete", incomplete_details=None), "length"),
        (event("response.completed", response=response("incomplete")), "length"),
        (event("response.completed", response={}), "stop"),
    ],
)
def test_the_end_has_its_reason_in_the_words_of_chat_completions(last: bytes, reason: str) -> None:
    answer = ResponseAnswer()
    answer.feed([delta("a"), last, delta("after the end")])
    assert answer.done
    assert (answer.finished().reason, answer.finished().usage) == (reason, None)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (USAGE, Usage(9, 4, 8)),
        ({"input_tokens": 9, "output_tokens": 4}, Usage(9, 4)),
        (USAGE | {"input_tokens": 7}, Usage(7, 4, 7)),
        ({"input_tokens": 9, "input_tokens_details": None}, Usage(9, 0)),
        ({"input_tokens": "9"}, None),
        ({"input_tokens": -1}, None),
        ({"input_tokens": 10**40}, None),
        ([1], None),
        (None, None),
    ],
)
def test_usage_is_what_the_end_says(usage: object, expected: Usage | None) -> None:
    answer = ResponseAnswer()
    answer.feed([delta("a"), end(usage=usage)])
    assert answer.finished().usage == expected


@pytest.mark.parametrize(
    "events",
    [
        [item_done(message("Hello"))],
        [end(output=[message("Hello")])],
        [delta("Hello"), item_done(message("Hello")), end(output=[message("Hello")])],
        [added(message("")), delta("Hel"), delta("lo", part=1), item_done(message("Hello")), end()],
    ],
)
def test_what_was_not_streamed_is_taken_from_what_is_done_and_nothing_twice(events: list[bytes]) -> None:
    answer = ResponseAnswer()
    assert told(answer.feed([CREATED, *events]) + answer.close()) == [TextDelta("Hello")]


def test_a_tool_call_may_come_whole() -> None:
    answer = ResponseAnswer()
    assert told(answer.feed([item_done(function_call("c1", "look", "{}")), end()])) == [
        ToolCallDelta(0, "c1", "look", "{}")
    ]
    assert answer.finished().reason == "tool_calls"


def test_a_response_that_was_not_streamed_is_understood() -> None:
    answer = ResponseAnswer()
    assert told(answer.feed_whole(json.dumps(response(output=RICH_OUTPUT)).encode())) == RICH_PIECES
    assert answer.finished().reason == "tool_calls"


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_response_that_goes_on_is_no_end(status: str) -> None:
    answer = ResponseAnswer(in_background=True)
    assert answer.feed_whole(json.dumps(response(status, output=[])).encode()) == [Resumable("resp_1")]
    assert answer.pending
    assert not answer.ended


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (end("failed", error={"code": "server_error", "message": "no"}), {"code": "server_error", "message": "no"}),
        (end("failed"), {"type": "server_error"}),
        (event("error", error={"message": "no"}), {"message": "no"}),
        (b'{"error": {"message": "no"}}', {"message": "no"}),
    ],
)
def test_a_failure_is_kept_after_the_text_before_it(last: bytes, error: object) -> None:
    answer = ResponseAnswer()
    assert answer.feed([delta("a"), last, delta("b")]) == [TextDelta("a")]
    assert answer.error == error
    assert answer.ended


def test_an_error_event_carries_its_fields_itself() -> None:
    answer = ResponseAnswer()
    answer.feed([event("error", code="rate_limit_exceeded", message="slow down")])
    assert isinstance(answer.error, dict)
    assert answer.error["code"] == "rate_limit_exceeded"


def test_an_answer_that_somebody_cancelled_is_lost() -> None:
    answer = ResponseAnswer(in_background=True)
    answer.feed_whole(json.dumps(response("cancelled")).encode())
    assert isinstance(answer.failure, ProviderAnswerLost)
    assert answer.ended


@pytest.mark.parametrize("name", ["../admin", "a/b", "a?b", "", ".", "..", "x" * 513, 7, None, "é", "a\n"])
def test_an_id_that_may_not_stand_in_an_address_cannot_be_resumed(name: object) -> None:
    answer = ResponseAnswer(in_background=True)
    assert answer.feed([event("response.created", response={"id": name})]) == []
    assert answer.id is None


@pytest.mark.parametrize(
    "broken",
    [
        b"{",
        b"not json",
        b"[1]",
        b"3",
        b"null",
        b"[" * 100_000,
        event("response.output_text.delta"),
        delta(3),
        delta(["a"]),
        delta({"text": "a"}),
        event("response.function_call_arguments.delta", delta="{}", output_index=0),
        added(None),
        added("item"),
        added(["item"]),
        added({"type": "function_call", "call_id": "c1"}),
        added({"type": "function_call", "call_id": "c1", "name": ["look"]}),
        event("response.output_item.added"),
        item_done({"type": "message", "content": 3}),
        item_done({"type": "message", "content": ["text"]}),
        item_done({"type": "reasoning", "summary": {"a": 1}}),
        event("response.completed"),
        event("response.completed", response=None),
        event("response.completed", response=[]),
        event("response.incomplete", response={"incomplete_details": ["why"]}),
        event("response.completed", response={"output": 3}),
        json.dumps({"type": ["response.created"]}).encode(),
    ],
)
@pytest.mark.parametrize("in_background", [True, False])
def test_what_is_no_event_is_a_protocol_error_after_the_text_before_it(broken: bytes, in_background: bool) -> None:
    answer = ResponseAnswer(in_background=in_background)
    first = [] if b"completed" in broken else [delta("a", 7)]
    assert answer.feed([*first, broken, delta("b")]) == [TextDelta("a") for _ in first]
    assert isinstance(answer.failure, ProviderProtocolError)


@pytest.mark.parametrize("index", [10**12, -1, 1e300, None, "0", True])
def test_an_index_may_be_anything(index: object) -> None:
    answer = ResponseAnswer()
    pieces = answer.feed([added(function_call("c1", "look"), index), delta("a", index, index), end()])
    assert told(pieces) == [ToolCallDelta(0, "c1", "look", ""), TextDelta("a")]


@pytest.mark.parametrize("index", [[], {}])
def test_an_index_that_cannot_be_one_counts_as_none(index: object) -> None:
    assert ResponseAnswer().feed([delta("a", index)]) == [TextDelta("a")]


SIMPLE = (None, True, 3, -1, 10**40, 1.5, "", "a", "message", "function_call", "completed", [], ["a"], {})
NESTED = (
    {"id": "x"},
    {"type": "message", "content": [None]},
    {"type": "function_call", "name": "f", "arguments": 3},
    {"type": "reasoning", "summary": [{"text": 3}]},
    {"output": [3]},
    {"output": {}},
    {"status": "failed"},
)
JUNK = st.sampled_from(SIMPLE + NESTED)
KINDS = st.sampled_from([json.loads(data)["type"] for data in RICH] + ["error", "response.failed"])
EVENTS = st.builds(
    lambda kind, rest: {"type": kind, **rest},
    KINDS | JUNK,
    st.dictionaries(
        st.sampled_from(["delta", "item", "response", "output_index", "sequence_number", "error", "status", "output"]),
        JUNK,
    ),
)


@given(st.lists(EVENTS, max_size=6), st.booleans())
def test_no_events_whatever_break_more_than_the_answer(events: list[dict[str, Any]], in_background: bool) -> None:
    answer = ResponseAnswer(in_background=in_background)
    answer.feed(json.dumps(each).encode() for each in events)
    answer.close()
    for each in events:
        ResponseAnswer(in_background=in_background).feed_whole(json.dumps(each).encode())


@pytest.mark.parametrize(
    "broken", [b"{", b"[]", b"{}", b'{"status": "new"}', b'{"status": "completed", "output": [3]}']
)
def test_what_is_no_response_is_a_protocol_error(broken: bytes) -> None:
    answer = ResponseAnswer()
    answer.feed_whole(broken)
    assert isinstance(answer.failure, ProviderProtocolError)


def test_an_end_mark_without_an_end_is_a_protocol_error() -> None:
    answer = ResponseAnswer()
    answer.feed([delta("a"), b"[DONE]"])
    assert answer.done
    with pytest.raises(ProviderProtocolError, match="without a finish reason"):
        answer.finished()
