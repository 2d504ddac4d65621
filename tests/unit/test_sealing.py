"""Sealed values open where they belong, and nowhere else."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.domain.errors import ContentUnreadable
from runstream.sealing.data_key import DataKey, key_of, new_key
from runstream.sealing.master_keys import MasterKeys, decoded

KEY = DataKey("dk_1", new_key())
PLACE = "acme/runs.output/run_1"


@given(st.binary(max_size=5000), st.text(min_size=1))
@settings(max_examples=50)
def test_what_is_sealed_opens_in_its_place_and_names_its_key(value: bytes, place: str) -> None:
    sealed = KEY.seal(value, place)
    assert KEY.open(sealed, place) == value
    assert key_of(sealed) == KEY.id
    assert KEY.seal(value, place) != sealed, "nothing says that two are the same"


@given(st.binary(min_size=1, max_size=100), st.data())
@settings(max_examples=50)
def test_what_was_changed_by_one_character_does_not_open(value: bytes, data: st.DataObject) -> None:
    sealed = KEY.seal(value, PLACE)
    at = data.draw(st.integers(0, len(sealed) - 5))  # not where base64 leaves bits unused
    changed = (
        sealed[:at] + data.draw(st.characters(codec="ascii").filter(lambda one: one != sealed[at])) + sealed[at + 1 :]
    )
    with pytest.raises(ContentUnreadable):
        _opened(changed)


def _opened(sealed: str) -> bytes:
    if key_of(sealed) != KEY.id:
        raise ContentUnreadable
    return KEY.open(sealed, PLACE)


@pytest.mark.parametrize("sealed", ["", "sealed:", "sealed:v1:dk_1", "sealed:v2:dk_1:AAAA", "sealed:v1:dk_1:", "text"])
def test_what_was_never_sealed_does_not_open(sealed: str) -> None:
    with pytest.raises(ContentUnreadable):
        _opened(sealed)


@pytest.mark.parametrize("place", ["other/runs.output/run_1", "acme/runs.input/run_1", "acme/runs.output/run_2"])
def test_what_was_moved_does_not_open(place: str) -> None:
    with pytest.raises(ContentUnreadable):
        KEY.open(KEY.seal(b"text", PLACE), place)


def test_another_key_of_the_same_name_does_not_open() -> None:
    with pytest.raises(ContentUnreadable):
        DataKey(KEY.id, new_key()).open(KEY.seal(b"text", PLACE), PLACE)


def test_the_first_master_key_wraps_and_all_of_them_unwrap() -> None:
    old, new, key = os.urandom(32), os.urandom(32), new_key()
    before, after = MasterKeys([old]), MasterKeys([new, old])
    wrapped = before.wrap("acme", "dk_1", key)
    assert after.unwrap("acme", "dk_1", before.used, wrapped) == key
    assert (after.ids, after.used) == ([after.used, before.used], MasterKeys([new]).used)
    rewrapped = after.wrap("acme", "dk_1", key)
    assert MasterKeys([new]).unwrap("acme", "dk_1", after.used, rewrapped) == key
    for tenant, key_id, master, by in (
        ("acme", "dk_1", after.used, before),
        ("other", "dk_1", after.used, after),
        ("acme", "dk_2", after.used, after),
        ("acme", "dk_1", before.used, after),
    ):
        with pytest.raises(ContentUnreadable):
            by.unwrap(tenant, key_id, master, rewrapped)


def test_a_master_keys_name_says_nothing_of_it() -> None:
    key = os.urandom(32)
    (name,) = MasterKeys([key]).ids
    assert re.fullmatch(r"mk_[0-9a-f]{16}", name)
    assert name.removeprefix("mk_") not in key.hex()


@pytest.mark.parametrize("text", ["", "secret", "c2VjcmV0", "ключ", "A" * 43, "A" * 44])
def test_what_is_no_key_is_refused_without_being_said(text: str) -> None:
    with pytest.raises(ValueError, match="base64 of 32 bytes") as refused:
        decoded(text)
    assert not text or text not in str(refused.value)
