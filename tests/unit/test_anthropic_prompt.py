from typing import Any

import pytest

from runstream.domain.errors import ProviderRefused
from runstream.domain.prompt import Prompt
from runstream.providers.anthropic_prompt import messages_of, system_of, tool_choice_of, tools_of


def said(*messages: dict[str, Any], **fields: Any) -> Prompt:
    return Prompt(messages, **fields)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def asks(call_id: str, name: str = "look", arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answers(call_id: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_system_and_developer_messages_stand_apart_wherever_they_were() -> None:
    prompt = said(
        {"role": "system", "content": "Be brief."},
        user("Hello"),
        {"role": "developer", "content": [text("Be kind."), text("Be true.")]},
        user("Are you there?"),
        {"role": "system", "content": " "},
    )
    assert system_of(prompt) == "Be brief.\n\nBe kind.\n\nBe true."
    assert messages_of(prompt) == [{"role": "user", "content": [text("Hello"), text("Are you there?")]}]


def test_a_prompt_without_them_has_no_system() -> None:
    assert system_of(said(user("Hello"))) == ""


def test_what_follows_each_other_from_one_side_is_one_turn() -> None:
    prompt = said(user("a"), user([text("b")]), {"role": "assistant", "content": "c"}, user("d"), {"role": "assistant"})
    assert messages_of(prompt) == [
        {"role": "user", "content": [text("a"), text("b")]},
        {"role": "assistant", "content": [text("c")]},
        {"role": "user", "content": [text("d")]},
    ]


@pytest.mark.parametrize("nothing", [None, "", " \n", [], [text("")], [text("\t")]])
def test_text_of_nothing_is_left_out_as_the_server_refuses_it(nothing: Any) -> None:
    assert messages_of(said(user(nothing), user("a"))) == [{"role": "user", "content": [text("a")]}]


def test_images_are_data_or_addresses() -> None:
    urls = ["data:image/PNG;base64,iVBORw==", "DATA:image/jpeg;name=a;base64,/9j/", "https://x.example/a,b;c.png"]
    prompt = said(user([text("See:"), *({"type": "image_url", "image_url": {"url": url}} for url in urls)]))
    assert [block.get("source") for block in messages_of(prompt)[0]["content"]] == [
        None,
        {"type": "base64", "media_type": "image/png", "data": "iVBORw=="},
        {"type": "base64", "media_type": "image/jpeg", "data": "/9j/"},
        {"type": "url", "url": "https://x.example/a,b;c.png"},
    ]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/svg+xml,<svg/>"}},
        {"type": "image_url", "image_url": {"url": "data:"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {},
    ],
)
def test_a_part_that_the_protocol_has_no_form_for_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(ProviderRefused):
        messages_of(said(user([part])))


def test_calls_and_their_results_are_blocks_and_results_one_turn() -> None:
    calls = [asks("call_1", arguments='{"a": [1]}'), asks("call_2", "go", "")]
    picture = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    prompt = said(
        user("Look."),
        {"role": "assistant", "content": "Yes.", "tool_calls": calls},
        answers("call_1", "Seen."),
        answers("call_2", [text("This:"), picture]),
        user("And?"),
        {"role": "assistant", "content": None, "tool_calls": [asks("call_3")]},
        answers("call_3", ""),
    )
    assert messages_of(prompt)[1:] == [
        {
            "role": "assistant",
            "content": [
                text("Yes."),
                {"type": "tool_use", "id": "call_1", "name": "look", "input": {"a": [1]}},
                {"type": "tool_use", "id": "call_2", "name": "go", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [text("Seen.")]},
                {
                    "type": "tool_result",
                    "tool_use_id": "call_2",
                    "content": [
                        text("This:"),
                        {"type": "image", "source": {"type": "url", "url": picture_url(picture)}},
                    ],
                },
                text("And?"),
            ],
        },
        {"role": "assistant", "content": [{"type": "tool_use", "id": "call_3", "name": "look", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_3"}]},
    ]


def picture_url(part: dict[str, Any]) -> str:
    return str(part["image_url"]["url"])


def test_an_id_from_elsewhere_is_made_fit_on_both_sides() -> None:
    prompt = said(
        {"role": "assistant", "content": None, "tool_calls": [asks("functions.look:0")]},
        answers("functions.look:0", "a"),
    )
    blocks = [message["content"][0] for message in messages_of(prompt)]
    assert (blocks[0]["id"], blocks[1]["tool_use_id"]) == ("functions_look_0", "functions_look_0")


@pytest.mark.parametrize("arguments", ["{", "[1]", "null", "3", '{"a": 1} and more'])
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    with pytest.raises(ProviderRefused, match="not a JSON object"):
        messages_of(said({"role": "assistant", "content": None, "tool_calls": [asks("c", arguments=arguments)]}))


def test_tools_have_a_schema_though_they_take_nothing() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    tools = [
        {
            "type": "function",
            "function": {"name": "look", "description": "Looks.", "parameters": schema, "strict": True},
        },
        {"type": "function", "function": {"name": "go", "description": None, "parameters": None, "strict": None}},
    ]
    assert tools_of(said(user("a"), tools=tools)) == [
        {"name": "look", "description": "Looks.", "input_schema": schema, "strict": True},
        {"name": "go", "input_schema": {"type": "object"}},
    ]
    assert tools_of(said(user("a"))) == []


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "look"}}, {"type": "tool", "name": "look"}),
    ],
)
def test_the_choice_of_a_tool_has_other_words(choice: Any, expected: Any) -> None:
    assert tool_choice_of(said(user("a"), tool_choice=choice)) == expected


@pytest.mark.parametrize(
    ("response_format", "in_words"),
    [
        (None, False),
        ({"type": "text"}, False),
        ({"type": "json_object"}, True),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}, False),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": None}}, True),
    ],
)
def test_json_without_a_schema_is_asked_for_in_words(response_format: Any, in_words: bool) -> None:
    system = system_of(said({"role": "system", "content": "Be brief."}, user("a"), response_format=response_format))
    assert system.startswith("Be brief.")
    assert ("one JSON object" in system) is in_words
