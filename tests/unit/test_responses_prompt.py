from typing import Any

import pytest

from runstream.domain.errors import ProviderRefused
from runstream.domain.prompt import Prompt
from runstream.providers.responses_prompt import fields_of

ASKED = [{"role": "user", "content": "Hello"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}


def items(*messages: Any) -> Any:
    return fields_of(Prompt(messages))["input"]


def test_a_conversation_with_tools_becomes_items_in_its_order() -> None:
    assert items(
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "And kind."},
        {"role": "user", "content": "Look it up.", "name": "ada"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, {**CALL, "id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "43"}]},
        {"role": "assistant", "content": None, "refusal": "No more."},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    ) == [
        {"type": "message", "role": "system", "content": "Be brief."},
        {"type": "message", "role": "developer", "content": "And kind."},
        {"type": "message", "role": "user", "content": "Look it up."},
        {"type": "message", "role": "assistant", "content": "Let me see."},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":1}'},
        {"type": "function_call", "call_id": "c2", "name": "look", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "43"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No more."}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":1}'},
    ]


def test_parts_have_the_names_of_their_side() -> None:
    text = {"type": "text", "text": "Look"}
    image = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}
    plain = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    file = {"type": "file", "file": {"file_id": "f1"}}
    assert items({"role": "user", "content": [text, image, plain, file]})[0]["content"] == [
        {"type": "input_text", "text": "Look"},
        {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "auto"},
        {"type": "input_file", "file_id": "f1"},
    ]
    assert items({"role": "assistant", "content": [text]})[0]["content"] == [{"type": "output_text", "text": "Look"}]


@pytest.mark.parametrize(
    "unknown",
    [
        {"role": "critic", "content": "Hm"},
        {"type": "item_reference", "id": "x"},
    ],
)
def test_a_message_that_is_not_known_is_passed_on(unknown: Any) -> None:
    assert items(unknown) == [unknown]


def test_a_part_that_is_not_known_is_passed_on() -> None:
    parts = [{"type": "input_audio", "input_audio": {}}, "text", 3, {}]
    assert items({"role": "user", "content": parts})[0]["content"] == parts


def test_tools_are_flat_and_only_as_strict_as_they_say() -> None:
    look = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}, "strict": True}
    tools = [{"type": "function", "function": look}, {"type": "function", "function": {"name": "go", "strict": None}}]
    assert fields_of(Prompt(ASKED, tools=tools))["tools"] == [
        {"type": "function", **look},
        {"type": "function", "name": "go", "parameters": {"type": "object", "properties": {}}, "strict": False},
    ]


@pytest.mark.parametrize(
    ("choice", "flat"),
    [
        ("auto", "auto"),
        ("required", "required"),
        ("none", "none"),
        ({"type": "function", "function": {"name": "look"}}, {"type": "function", "name": "look"}),
    ],
)
def test_a_tool_choice_is_flat(choice: Any, flat: Any) -> None:
    assert fields_of(Prompt(ASKED, tool_choice=choice))["tool_choice"] == flat


@pytest.mark.parametrize(
    ("asked", "flat"),
    [
        ({"type": "text"}, {"type": "text"}),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}},
            {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
        ),
    ],
)
def test_a_response_format_is_the_texts(asked: Any, flat: Any) -> None:
    assert fields_of(Prompt(ASKED, response_format=asked))["text"] == {"format": flat}


def test_limits_and_efforts_have_their_fields_and_nothing_else_is_sent() -> None:
    assert fields_of(Prompt(ASKED)) == {"input": [{"type": "message", **ASKED[0]}]}
    fields = fields_of(Prompt(ASKED, temperature=0.0, max_output_tokens=7, reasoning_effort="low"))
    assert (fields["temperature"], fields["max_output_tokens"]) == (0.0, 7)
    assert fields["reasoning"] == {"effort": "low", "summary": "auto"}


def test_stop_sequences_are_refused() -> None:
    with pytest.raises(ProviderRefused, match="no stop sequences"):
        fields_of(Prompt(ASKED, stop=["x"]))
    fields_of(Prompt(ASKED, stop=[]))
