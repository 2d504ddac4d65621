import pytest

from clock import Clock
from runstream.providers.keys import KeyRing


def ring(clock: Clock, *keys: str) -> KeyRing:
    return KeyRing("local", keys, now=clock)


def used(ring: KeyRing, clock: Clock, times: int) -> list[str]:
    keys = []
    for _ in range(times):
        clock.now += 0.001
        keys.append(ring.next())
    return keys


def test_keys_of_which_nothing_is_known_take_turns(clock: Clock) -> None:
    assert used(ring(clock, "a", "b", "c"), clock, 6) == ["a", "b", "c"] * 2


@pytest.mark.parametrize(("status", "asked", "rest"), [(429, None, 1), (429, 30.0, 30), (401, None, 60), (401, 5.0, 5)])
def test_a_key_that_was_refused_rests_as_long_as_was_said(
    clock: Clock, status: int, asked: float | None, rest: float
) -> None:
    keys = ring(clock, "a", "b")
    keys.heard("a", status, {}, asked)
    began = clock.now
    assert used(keys, clock, 3) == ["b"] * 3
    assert not keys.rests()
    clock.now = began + rest + 0.01
    assert set(used(keys, clock, 2)) == {"a", "b"}


def test_a_key_does_not_rest_for_days(clock: Clock) -> None:
    keys = ring(clock, "a", "b")
    keys.heard("a", 429, {}, 1e9)
    clock.now += 3601
    assert "a" in used(keys, clock, 2)


def test_where_all_rest_the_one_that_does_for_the_shortest_time_is_given(clock: Clock) -> None:
    keys = ring(clock, "a", "b")
    keys.heard("a", 429, {}, 30)
    keys.heard("b", 429, {}, 20)
    assert keys.rests()
    assert keys.next() == "b"
    keys.heard("b", 200, {}, None)
    assert not keys.rests()


@pytest.mark.parametrize("header", ["x-ratelimit-remaining-tokens", "anthropic-ratelimit-tokens-remaining"])
def test_the_key_with_the_most_left_is_given_until_that_is_known_no_more(clock: Clock, header: str) -> None:
    keys = ring(clock, "a", "b", "c")
    for key, left in (("a", "100"), ("b", "9000"), ("c", "500")):
        keys.heard(key, 200, {header: left}, None)
    assert used(keys, clock, 3) == ["b"] * 3
    keys.heard("b", 200, {header: "20"}, None)
    assert used(keys, clock, 2) == ["c"] * 2
    clock.now += 61
    assert set(used(keys, clock, 3)) == {"a", "b", "c"}


@pytest.mark.parametrize("left", ["", "-1", "many", "1e9", "9" * 400])
def test_nonsense_about_what_is_left_is_nothing_known_or_a_lot(clock: Clock, left: str) -> None:
    keys = ring(clock, "a", "b")
    keys.heard("a", 200, {"x-ratelimit-remaining-tokens": left}, None)
    assert set(used(keys, clock, 4)) <= {"a", "b"}


def test_without_keys_there_is_one_that_is_empty(clock: Clock) -> None:
    assert ring(clock).next() == ""
