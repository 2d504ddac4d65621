from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.domain.errors import ProviderError, ProviderRateLimited, ProviderRefused, ProviderUnavailable
from runstream.providers.failures import Scrubber, failure_in_stream, failure_of_status, message_of, retry_after

NOW = 1_800_000_000.0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 301])
def test_asking_again_does_not_help_against_a_refusal(status: int) -> None:
    failure = failure_of_status(status, "no", None)
    assert type(failure) is ProviderRefused
    assert not failure.retryable
    assert failure.message == f"The provider answered {status}: no"


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504, 529])
def test_a_server_in_trouble_may_be_asked_again(status: int) -> None:
    failure = failure_of_status(status, "", 3)
    assert type(failure) is ProviderUnavailable
    assert failure.retryable
    assert failure.retry_after == 3


def test_a_rate_limit_says_how_long_to_wait() -> None:
    failure = failure_of_status(429, "slow down", 7)
    assert type(failure) is ProviderRateLimited
    assert failure.retry_after == 7


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "x", "code": 429}, ProviderRateLimited),
        ({"message": "x", "code": "429"}, ProviderRateLimited),
        ({"message": "x", "type": "requests", "code": "rate_limit_exceeded"}, ProviderRateLimited),
        ({"message": "x", "code": "insufficient_quota"}, ProviderRateLimited),
        ({"message": "x", "code": 400, "type": "BadRequestError"}, ProviderRefused),
        ({"message": "x", "type": "invalid_request_error", "code": None}, ProviderRefused),
        ({"message": "x", "code": "context_length_exceeded"}, ProviderRefused),
        ({"message": "x", "type": "authentication_error"}, ProviderRefused),
        ({"message": "x", "code": 502}, ProviderUnavailable),
        ({"message": "x", "type": "overloaded_error"}, ProviderUnavailable),
        ({"message": "x", "type": "server_error", "code": "server_error"}, ProviderUnavailable),
        ({"message": "x", "code": 1e400}, ProviderUnavailable),
        ({"message": "x", "code": [1]}, ProviderUnavailable),
        ("out of memory", ProviderUnavailable),
        (True, ProviderUnavailable),
    ],
)
def test_an_error_in_the_stream_is_told_by_its_code_or_type(error: object, kind: type[ProviderError]) -> None:
    assert type(failure_in_stream(error, "x")) is kind


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "openai", "type": "t"}}, "openai"),
        ({"object": "error", "message": "vllm", "code": 400}, "vllm"),
        ({"error": "ollama"}, "ollama"),
        ({"detail": "fastapi"}, "fastapi"),
        ({"detail": [{"loc": ["body"], "msg": "first", "input": "secret"}, {"msg": "second"}]}, "first; second"),
        ({"error": {"message": ""}, "message": "outer"}, "outer"),
        ("text", "text"),
        ({"answer": 1}, ""),
        (None, ""),
    ],
)
def test_the_message_is_found_where_each_server_puts_it(body: Any, message: str) -> None:
    assert message_of(body) == message


def test_a_body_nested_without_end_has_no_message() -> None:
    body: Any = "deep"
    for _ in range(5000):
        body = {"error": body}
    assert message_of(body) == ""


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "20"}, 20),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_the_time_to_wait_is_read_as_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


KEY = "my-key-0123456789"


@given(st.text(max_size=30), st.text(max_size=30), st.sampled_from([KEY, "sk-proj-abc_DEF-123", "sk-ab***********yz"]))
def test_no_key_is_left_in_a_message(before: str, after: str, key: str) -> None:
    shown = Scrubber([KEY])(f"{before} {key} {after} Bearer {KEY}. '{key}'")
    assert KEY not in shown
    assert "sk-" not in shown.replace(before, "").replace(after, "")


def test_a_short_key_is_scrubbed_as_a_word_and_not_within_words() -> None:
    assert Scrubber(["k"])("the key k is unknown") == "the key [key] is unknown"


def test_a_message_is_one_line_of_at_most_500_characters_that_postgres_can_hold() -> None:
    shown = Scrubber([])("a\n\n b\0\ud800 " + "x" * 1000)
    assert shown.startswith("a b\ufffd\ufffd x")
    assert len(shown) == 500


def test_a_prompt_that_the_provider_repeats_is_taken_out() -> None:
    prompt = 'Dear "diary",\nnobody may know'
    shown = Scrubber([])(f"bad input {prompt!r} or {prompt}", [prompt, "or"])
    assert "diary" not in shown
    assert "or" in shown
