import os
from pathlib import Path

import pytest

from clock import Clock
from runstream.domain.errors import ConfigurationError
from runstream.providers.key_file import KeyFile
from runstream.providers.keys import KeyRing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# of the first account\none\n\n  two  \n")
    return path


def ring(clock: Clock, path: Path, *keys: str) -> KeyRing:
    return KeyRing("local", keys, KeyFile("local", str(path), now=clock), now=clock)


def later(keys: KeyRing, clock: Clock) -> list[str]:
    """Those that are given out some seconds later."""
    clock.now += 2
    return given(keys, clock)


def given(keys: KeyRing, clock: Clock) -> list[str]:
    """Those that are given out from now on."""
    names = set()
    for _ in range(10):
        clock.now += 0.001
        names.add(keys.next())
    return sorted(names)


def test_keys_are_lines_beside_those_that_were_given(clock: Clock, path: Path) -> None:
    assert later(ring(clock, path, "zero", "one"), clock) == ["one", "two", "zero"]


def test_keys_that_come_and_go_are_taken_up_within_seconds(clock: Clock, path: Path) -> None:
    keys = ring(clock, path, "zero")
    path.write_text("two\nthree\n")
    assert later(keys, clock) == ["three", "two", "zero"]
    assert sorted(keys.usable()) == ["three", "two", "zero"]
    assert "one" not in keys.all
    assert "one" in keys.known


def test_a_file_that_is_replaced_or_linked_to_another_is_read_again(clock: Clock, path: Path, tmp_path: Path) -> None:
    """As Kubernetes has it: a link to a directory that is exchanged, with files as large and as old as before."""
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys").write_text(f"key-{name}\n")
        os.utime(tmp_path / name / "keys", (1, 1))
    (tmp_path / "data").symlink_to("v1")
    keys = ring(clock, tmp_path / "data" / "keys")
    assert later(keys, clock) == ["key-v1"]
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(tmp_path / "data")
    assert later(keys, clock) == ["key-v2"]


def test_the_file_is_looked_at_once_a_second_at_most(clock: Clock, path: Path) -> None:
    keys = ring(clock, path)
    assert later(keys, clock) == ["one", "two"]
    path.write_text("three")
    assert given(keys, clock) == ["one", "two"]
    assert later(keys, clock) == ["three"]


@pytest.mark.parametrize("content", [b"", b"# none\n\n", b"k\x00ey", b"kl\xc3\xa9", b"a\n\xff\xfe\n", b"x" * 1_000_001])
def test_what_holds_no_keys_leaves_them_as_they_were(
    clock: Clock, path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ring(clock, path)
    path.write_bytes(content)
    assert later(keys, clock) == ["one", "two"]
    assert later(keys, clock) == ["one", "two"]
    assert capsys.readouterr().out.count("keys_file_not_used") == 1
    path.write_text("three")
    assert later(keys, clock) == ["three"]


def test_a_file_that_is_gone_or_cannot_be_read_leaves_the_keys_as_they_were(clock: Clock, path: Path) -> None:
    keys = ring(clock, path)
    path.unlink()
    assert later(keys, clock) == ["one", "two"]
    path.mkdir()
    assert later(keys, clock) == ["one", "two"]
    path.rmdir()
    path.write_text("three")
    assert later(keys, clock) == ["three"]


def test_a_key_that_stays_rests_on_and_one_that_was_retired_hears_nothing(clock: Clock, path: Path) -> None:
    keys = ring(clock, path)
    keys.heard("one", 429, {}, 30)
    path.write_text("one\nthree\n")
    assert later(keys, clock) == ["three"]
    keys.heard("two", 429, {}, 30)
    assert not keys.rests()


def test_a_key_that_comes_back_is_retired_no_more(clock: Clock, path: Path) -> None:
    keys = ring(clock, path)
    path.write_text("one\n")
    later(keys, clock)
    path.write_text("one\ntwo\n")
    assert later(keys, clock) == ["one", "two"]
    assert sorted(keys.known) == ["one", "two"]


def test_no_key_is_in_what_is_logged(clock: Clock, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ring(clock, path)
    path.write_text("secret-three\n")
    later(keys, clock)
    path.write_text("secret-four\nsecret\x00five\n")
    later(keys, clock)
    said = capsys.readouterr().out
    assert "keys_changed" in said
    assert "keys_file_not_used" in said
    assert "secret" not in said


@pytest.mark.parametrize("content", [None, "", "# none"])
def test_without_a_key_to_begin_with_there_is_no_provider(clock: Clock, path: Path, content: str | None) -> None:
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"provider 'local' has no keys from its api_keys_file: .*keys"):
        ring(clock, path)
