import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.domain.errors import ProviderProtocolError
from runstream.domain.usage import Usage
from runstream.providers.anthropic_events import MessagesAnswer
from runstream.providers.base import Finished, Piece, ReasoningDelta, TextDelta, ToolCallDelta
from runstream.providers.failures import failure_in_stream
from runstream.providers.sse import EventReader

COUNTS = {"input_tokens": 5, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 7, "output_tokens": 1}


def event(kind: str, **fields: Any) -> bytes:
    return json.dumps({"type": kind, **fields}).encode()


def head(**fields: Any) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude-x-1"}
    return event("message_start", message={**message, "usage": COUNTS, **fields})


def begin(index: Any, kind: str, **fields: Any) -> bytes:
    return event("content_block_start", index=index, content_block={"type": kind, **fields})


def delta(index: Any, kind: str, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def end(index: Any) -> bytes:
    return event("content_block_stop", index=index)


def finish(reason: Any = "end_turn", **usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage)


def text(*texts: str, index: int = 0) -> list[bytes]:
    deltas = [delta(index, "text_delta", text=each) for each in texts]
    return [begin(index, "text", text=""), *deltas, end(index)]


def call(index: int, *pieces: str, call_id: str = "toolu_1", name: str = "look", given: Any = None) -> list[bytes]:
    deltas = [delta(index, "input_json_delta", partial_json=piece) for piece in pieces]
    return [begin(index, "tool_use", id=call_id, name=name, input=given or {}), *deltas, end(index)]


STOP = event("message_stop")
PING = event("ping")


def gathered(*events: bytes) -> tuple[list[Piece], MessagesAnswer]:
    answer = MessagesAnswer()
    return answer.feed(events) + answer.close(), answer


def test_an_answer_is_put_together() -> None:
    pieces, answer = gathered(head(), PING, *text("Hel", "lo"), finish(output_tokens=12), STOP)
    assert pieces == [TextDelta("Hello")]
    assert answer.done
    assert answer.finished() == Finished("stop", Usage(42, 12, 30), "claude-x-1")


def test_text_reasoning_and_calls_come_in_the_order_of_their_blocks() -> None:
    thinking = [
        begin(0, "thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="hm"),
        delta(0, "thinking_delta", thinking="!"),
        delta(0, "signature_delta", signature="c2lnbmVk"),
        end(0),
    ]
    both = call(2, "", '{"a"', ": 1}") + call(3, "{}", call_id="toolu_2", name="go")
    pieces, answer = gathered(head(), *thinking, *text("Let me see.", index=1), *both, finish("tool_use"), STOP)
    assert pieces == [
        ReasoningDelta("hm!"),
        TextDelta("Let me see."),
        ToolCallDelta(0, "toolu_1", "look", ""),
        ToolCallDelta(0, None, None, '{"a": 1}'),
        ToolCallDelta(1, "toolu_2", "go", ""),
        ToolCallDelta(1, None, None, "{}"),
    ]
    assert answer.finished().reason == "tool_calls"


@pytest.mark.parametrize(
    ("events", "arguments"),
    [
        (call(0), "{}"),
        (call(0, ""), "{}"),
        (call(0, given={"a": [1]}), '{"a":[1]}'),
        (call(0, '{"b":2}', given={"a": 1}), '{"b":2}'),
        (call(0)[:1], "{}"),
    ],
    ids=["nothing", "an empty piece", "whole at the beginning", "pieces", "not ended"],
)
def test_a_calls_arguments_are_always_json(events: list[bytes], arguments: str) -> None:
    pieces, _ = gathered(head(), *events, finish("tool_use"), STOP)
    assert pieces == [ToolCallDelta(0, "toolu_1", "look", ""), ToolCallDelta(0, None, None, arguments)]


def test_calls_at_one_index_and_with_one_id_stay_two() -> None:
    pieces, _ = gathered(head(), *call(0, "[1]"), *call(0, "[2]"), finish("tool_use"))
    assert [piece.index for piece in pieces if isinstance(piece, ToolCallDelta)] == [0, 0, 1, 1]


def test_what_a_servers_own_tools_do_and_what_is_not_known_is_passed_over() -> None:
    own = [
        begin(0, "server_tool_use", id="srvtoolu_1", name="web_search", input={}),
        delta(0, "input_json_delta", partial_json='{"query"'),
        end(0),
        begin(1, "web_search_tool_result", tool_use_id="srvtoolu_1", content=[]),
        end(1),
        begin(2, "redacted_thinking", data="ZGF0YQ"),
        end(2),
        begin(3, "hologram"),
        delta(3, "hologram_delta", photons=3),
        end(3),
        event("content_block_remark", index=3),
        event("weather"),
        b"{}",
        b"",
    ]
    cited = [begin(4, "text", text=""), delta(4, "citations_delta", citation={}), delta(4, "text_delta", text="a")]
    pieces, answer = gathered(head(), *own, *cited, finish(), STOP)
    assert pieces == [TextDelta("a")]
    assert answer.failure is None


@pytest.mark.parametrize("kind", ["thinking", "redacted_thinking", "tool_use", "server_tool_use"])
def test_a_block_shows_that_the_model_is_at_work_though_nothing_of_it_is_shown(kind: str) -> None:
    answer = MessagesAnswer()
    answer.feed([head(), PING, begin(0, "text", text=""), delta(0, "text_delta", text="")])
    assert not answer.started
    answer.feed([begin(1, kind, name="look")])
    assert answer.started


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "something_new"),
        ("x\0" * 100, "x\ufffd" * 32),
    ],
)
def test_the_reason_is_in_the_words_of_chat_completions(said: str, reason: str) -> None:
    assert gathered(head(), *text("a"), finish(said), STOP)[1].finished().reason == reason


@pytest.mark.parametrize("unsaid", [finish(None), event("message_delta", delta=None), event("message_delta"), b"{}"])
def test_an_end_without_a_reason_is_a_protocol_error(unsaid: bytes) -> None:
    answer = gathered(head(), *text("a"), unsaid, STOP)[1]
    assert answer.failure is None
    with pytest.raises(ProviderProtocolError, match="without a finish reason"):
        answer.finished()


@pytest.mark.parametrize(
    ("at_start", "at_end", "expected"),
    [
        (COUNTS, {"output_tokens": 9}, Usage(42, 9, 30)),
        ({"input_tokens": 5}, {"output_tokens": 9}, Usage(5, 9)),
        ({"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 8, "output_tokens": 9}, Usage(8, 9)),
        ({"input_tokens": 8, "output_tokens": 1}, {"input_tokens": 0, "output_tokens": 9}, Usage(8, 9)),
        ({"input_tokens": 8}, {"cache_read_input_tokens": 2}, Usage(10, 0, 2)),
        ({"input_tokens": 8, "cache_read_input_tokens": None}, None, Usage(8, 0)),
        ({"input_tokens": 8}, [1], Usage(8, 0)),
        ({"input_tokens": 8}, {"output_tokens": "9"}, Usage(8, 0)),
        ({"input_tokens": 8}, {"output_tokens": -9}, Usage(8, 0)),
        ({"input_tokens": 8}, {"output_tokens": 2**40}, Usage(8, 0)),
        ({"input_tokens": 2**31 - 1, "cache_read_input_tokens": 1}, None, None),
        ({"output_tokens": 8}, None, None),
        (None, {"input_tokens": "8"}, None),
        ("many", None, None),
    ],
)
def test_all_input_is_counted_and_the_highest_count_is_the_last(
    at_start: Any, at_end: Any, expected: Usage | None
) -> None:
    done = event("message_delta", delta={"stop_reason": "end_turn"}, usage=at_end)
    assert gathered(head(usage=at_start), *text("a"), done, STOP)[1].finished().usage == expected


HOSTILE = [
    b"{",
    b"not json",
    b"[1]",
    b"3",
    b"null",
    b"[" * 100_000,
    event("message_start"),
    event("message_start", message=3),
    event("message_start", message=[]),
    event("message_delta", delta="end_turn"),
    event("content_block_start", index=1),
    event("content_block_start", content_block={"type": "text"}),
    begin("1", "text"),
    begin(None, "text"),
    begin(True, "text"),
    begin(1.5, "text"),
    begin([], "text"),
    begin({}, "text"),
    begin(10**30, "text"),
    event("content_block_start", index=1, content_block=["text"]),
    event("content_block_start", index=1, content_block={}),
    event("content_block_start", index=1, content_block={"type": 3}),
    begin(1, "text", text=3),
    begin(1, "text", text=["a"]),
    begin(1, "thinking", thinking={}),
    begin(1, "tool_use"),
    begin(1, "tool_use", id=3, name="look"),
    begin(1, "tool_use", id="c", name=["look"]),
    begin(1, "tool_use", id="c", name=""),
    event("content_block_delta"),
    event("content_block_delta", index=0),
    event("content_block_delta", index=0, delta=3),
    event("content_block_delta", index=0, delta={}),
    delta(0, "text_delta"),
    delta(0, "text_delta", text=3),
    delta(0, "text_delta", text=["a"]),
    delta(0, "thinking_delta", thinking="hm"),
    delta(0, "input_json_delta", partial_json="{"),
    delta(1, "text_delta", text="b"),
    delta(-1, "text_delta", text="b"),
    delta(10**30, "text_delta", text="b"),
    delta("0", "text_delta", text="b"),
    delta([0], "text_delta", text="b"),
    end("0"),
    end(None),
    event("content_block_stop"),
]


@pytest.mark.parametrize("broken", HOSTILE, ids=[each.decode()[:100] for each in HOSTILE])
def test_what_breaks_the_protocol_is_an_error_after_the_text_before_it(broken: bytes) -> None:
    begun = [begin(0, "text", text=""), delta(0, "text_delta", text="a")]
    pieces, answer = gathered(head(), *begun, broken, delta(0, "text_delta", text="b"))
    assert pieces == [TextDelta("a")]
    assert isinstance(answer.failure, ProviderProtocolError)


def test_a_delta_after_its_blocks_end_is_a_protocol_error() -> None:
    assert gathered(head(), *text("a"), delta(0, "text_delta", text="b"))[1].failure is not None


@pytest.mark.parametrize("index", [2**63, 10**6, -5])
def test_where_a_block_stands_does_not_matter(index: int) -> None:
    assert gathered(head(), *text("a", index=index), *text("b", index=0), finish(), STOP)[0] == [TextDelta("ab")]


def test_an_input_that_is_too_deep_to_be_written_is_a_protocol_error() -> None:
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"a": deep}
    assert isinstance(gathered(head(), *call(0, given=deep))[1].failure, ProviderProtocolError)


def test_the_end_mark_ends_it_whatever_follows() -> None:
    assert gathered(head(), *text("a"), finish(), STOP, b"{nonsense")[1].failure is None
    assert gathered(head(), *text("a"), finish(), b"[DONE]", b"{nonsense")[1].done


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("overloaded_error", "provider_unavailable"),
        ("api_error", "provider_unavailable"),
        ("timeout_error", "provider_unavailable"),
        ("something_new", "provider_unavailable"),
        ("rate_limit_error", "provider_rate_limited"),
        ("invalid_request_error", "provider_refused"),
        ("authentication_error", "provider_refused"),
        ("permission_error", "provider_refused"),
        ("not_found_error", "provider_refused"),
        ("request_too_large", "provider_refused"),
        ("billing_error", "provider_refused"),
    ],
)
def test_an_error_in_the_stream_comes_after_the_text_before_it_and_is_told_by_its_type(kind: str, code: str) -> None:
    error = event("error", error={"type": kind, "message": "No."}, request_id="req_1")
    pieces, answer = gathered(head(), begin(0, "text"), delta(0, "text_delta", text="a"), error, *text("b"))
    assert pieces == [TextDelta("a")]
    assert answer.error == {"type": kind, "message": "No."}
    assert failure_in_stream(answer.error, "No.").code == code


@pytest.mark.parametrize("error", [event("error"), event("error", error=None), b'{"error": "out of memory"}'])
def test_an_error_of_another_shape_is_one_too(error: bytes) -> None:
    assert gathered(head(), error)[1].error


WHOLE = {
    "type": "message",
    "model": "claude-x-1",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": 1}},
        {"type": "tool_use", "id": "toolu_2", "name": "go", "input": {}},
    ],
    "stop_reason": "tool_use",
    "usage": COUNTS | {"output_tokens": 12},
}


def test_an_answer_that_came_at_once_is_put_together_alike() -> None:
    answer = MessagesAnswer()
    assert answer.feed_whole(json.dumps(WHOLE).encode()) + answer.close() == [
        ReasoningDelta("hm"),
        TextDelta("Hello"),
        ToolCallDelta(0, "toolu_1", "look", ""),
        ToolCallDelta(0, None, None, '{"a":1}'),
        ToolCallDelta(1, "toolu_2", "go", ""),
        ToolCallDelta(1, None, None, "{}"),
    ]
    assert answer.finished() == Finished("tool_calls", Usage(42, 12, 30), "claude-x-1")


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"content": 3},
        {"content": "Hello"},
        {"content": {"type": "text"}},
        {"content": [3]},
        {"content": [{"text": "a"}]},
        {"content": [{"type": "text", "text": 3}]},
        [],
        None,
    ],
)
def test_what_came_at_once_and_is_no_message_is_a_protocol_error(broken: Any) -> None:
    answer = MessagesAnswer()
    answer.feed_whole(json.dumps(broken).encode())
    answer.close()
    assert isinstance(answer.failure, ProviderProtocolError)


STREAM = b"".join(
    b"event: x\ndata: %s\n\n" % each
    for each in [
        head(),
        PING,
        begin(0, "thinking", thinking=""),
        delta(0, "thinking_delta", thinking="naïve 🙂"),
        delta(0, "thinking_delta", thinking="\ud83d"),
        delta(0, "thinking_delta", thinking="\ude42"),
        end(0),
        *text("Grüße ", "\ud83d", "\ude42", "日本\0", index=1),
        *call(2, '{"wörter"', ': "\\ud83d', '\\ude42"}'),
        *call(3, name="go"),
        finish("tool_use", output_tokens=12),
        STOP,
    ]
)


def heard(reads: list[bytes]) -> tuple[list[tuple[Any, ...]], Finished]:
    """The pieces, as long as they can be: how reads were cut is not to be seen in what they add up to."""
    reader, answer = EventReader(10**6), MessagesAnswer()
    pieces = [piece for read in reads for piece in answer.feed(reader.feed(read))] + answer.close()
    joined: list[tuple[Any, ...]] = []
    for piece in pieces:
        match piece:
            case ToolCallDelta(index, call_id, name, arguments):
                kind: tuple[Any, ...] = ("call", index)
                said = f"{call_id} {name}: {arguments}" if name else arguments
            case TextDelta(said) | ReasoningDelta(said):
                kind = (type(piece),)
            case _:
                raise AssertionError(piece)
        if joined and joined[-1][0] == kind:
            joined[-1] = (kind, joined[-1][1] + said)
        else:
            joined.append((kind, said))
    return joined, answer.finished()


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_every_way_to_cut_the_stream_into_reads_adds_up_to_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    whole = heard([STREAM])
    assert whole[0][:2] == [((ReasoningDelta,), "naïve 🙂🙂"), ((TextDelta,), "Grüße 🙂日本\ufffd")]
    assert heard([STREAM[start:stop] for start, stop in itertools.pairwise(edges)]) == whole


VALUES: list[Any] = [
    *(
        None,
        True,
        0,
        1,
        -1,
        2**63,
        10**30,
        0.5,
        "",
        "text",
        "tool_use",
        "end_turn",
        "\ud83d",
        [],
        [0],
        {},
        [{}],
        [[[]]],
    ),
    *({"type": each} for each in [None, 0, "", [], "text", "thinking", "tool_use", "text_delta", "input_json_delta"]),
    *({"type": "text", "text": each} for each in [None, 0, "\ud83d", []]),
    *({"type": "tool_use", "id": each, "name": each, "input": each} for each in [None, 0, "\ud83d", [], {"a": {}}]),
    *({"type": "text_delta", "text": each} for each in [None, 0, "\ud83d", []]),
    *({"type": "input_json_delta", "partial_json": each} for each in [None, 0, "\ud83d", []]),
    *({"stop_reason": each, "model": each, "usage": each, "content": each} for each in [None, 0, "", "x", [], {}]),
    *({"usage": {"input_tokens": each}} for each in [None, -1, 2**63, "1"]),
    {"content": [{"type": "text", "text": "a"}, 0]},
]
JSON = st.sampled_from(VALUES)
KINDS = ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "error"]
FIELDS = ["index", "delta", "content_block", "message", "usage", "error"]
EVENTS = st.builds(
    lambda kind, fields: event(kind, **fields), st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), JSON)
)


@given(st.lists(EVENTS | st.sampled_from([head(), *text("a"), *call(1, "{"), finish(), STOP]), max_size=12))
def test_nothing_that_a_server_may_send_makes_it_fail_otherwise_than_in_its_own_words(events: list[bytes]) -> None:
    answer = MessagesAnswer()
    answer.feed(events)
    answer.close()
    try:
        answer.finished()
    except ProviderProtocolError:
        assert answer.reason is None


@given(JSON)
def test_nothing_that_a_server_may_send_at_once_does_either(body: Any) -> None:
    answer = MessagesAnswer()
    answer.feed_whole(json.dumps(body).encode())
    answer.feed_whole(json.dumps({"content": body}).encode())
    answer.close()
