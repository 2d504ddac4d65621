"""Keys to encrypt with come from the environment or from a file, and are in no sentence."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

import pytest

from runstream.configuration import contradictions
from runstream.connections import master_keys
from runstream.settings import Settings, survey

FIRST, SECOND = (b64encode(bytes([number]) * 32).decode() for number in (1, 2))


def given(**values: object) -> Settings:
    return Settings(_env_file=None, **values)


def test_there_are_none_unless_some_are_given() -> None:
    assert master_keys(given()) is None


def test_a_file_gives_them_in_order_as_the_variable_does(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# the new one first\n{FIRST}\n\n{SECOND}\n")
    of_file = master_keys(given(encryption_keys_file=str(file)))
    of_variable = master_keys(given(encryption_keys=json.dumps([FIRST, SECOND])))
    assert of_file
    assert of_variable
    assert of_file.ids == of_variable.ids
    assert len(of_file.ids) == 2


@pytest.mark.parametrize("content", [None, "", "short", FIRST + "\nsecret-but-no-key"])
def test_a_file_that_cannot_be_used_is_said_and_nothing_that_it_holds(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    (sentence,) = contradictions(given(encryption_keys_file=str(file)))
    assert sentence.startswith("RUNSTREAM_ENCRYPTION_KEYS_FILE: ")
    assert not any(line in sentence for line in (content or "").split())


def test_both_at_once_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(FIRST)
    (sentence,) = contradictions(given(encryption_keys=[SECOND], encryption_keys_file=str(file)))
    assert sentence.endswith("not both.")


@pytest.mark.parametrize("value", ['["secret-but-no-key"]', "secret-but-no-key", '{"secret-but-no-key": 1}'])
def test_a_variable_that_holds_no_keys_is_said_and_not_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RUNSTREAM_ENCRYPTION_KEYS", value)
    (sentence,) = survey()[1]
    assert sentence.startswith("RUNSTREAM_ENCRYPTION_KEYS")
    assert "secret" not in sentence


def test_a_name_that_is_nearly_right_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNSTREAM_ENCRYPTION_KEY", FIRST)
    (sentence,) = survey()[1]
    assert "RUNSTREAM_ENCRYPTION_KEYS" in sentence
