"""What is counted where a provider did not count."""

import pytest

from runstream.domain.usage import Usage, estimate


def message(content: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(("characters", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (4000, 1000)], ids=str)
def test_four_characters_are_a_token_and_a_begun_one_counts(characters: int, tokens: int) -> None:
    assert estimate({"text": "x" * characters}, characters) == Usage(tokens, tokens, 0, estimated=True)


def test_all_text_of_an_input_counts_and_nothing_else() -> None:
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "World"}]
    whole = {**message(parts), "temperature": 1.5, "max_output_tokens": 100, "stop": None}
    assert estimate(whole, 0).input_tokens == -(-len("usertextHellotextWorld") // 4)


def test_an_image_that_came_as_data_does_not_count() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}}
    assert estimate(message([image]), 0).input_tokens < 10


def test_no_depth_of_an_input_is_too_much() -> None:
    deep: object = "text"
    for _ in range(10_000):
        deep = [deep]
    assert estimate(message(deep), 0).input_tokens == 2
