"""Each named crash point stands in the code once, and a test has a process die there."""

import re
from collections import Counter
from pathlib import Path

import pytest

from runstream import crash_points
from runstream.crash_points import Point, arm, reached
from runstream.domain.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"\bPoint\.([A-Z_]+)\b")
REACHED = re.compile(r"\breached\(Point\.([A-Z_]+)\)")


def test_each_point_is_reached_at_one_place() -> None:
    places = Counter(name for file in (ROOT / "src").rglob("*.py") for name in REACHED.findall(file.read_text()))
    places.subtract(NAMED.findall(crash_points.__doc__ or ""))
    assert places == Counter({point.name: 1 for point in Point})


def test_a_process_dies_at_each_point_in_some_test() -> None:
    files = (
        ROOT / "tests/acceptance" / name
        for name in (
            "test_background.py",
            "test_crash_points.py",
            "test_deletion.py",
            "test_encryption.py",
            "test_webhooks.py",
        )
    )
    tests = "".join(file.read_text() for file in files)
    assert set(NAMED.findall(tests)) == {point.name for point in Point}


def test_nothing_happens_at_a_point_that_nobody_asked_for() -> None:
    for point in Point:
        reached(point)


@pytest.mark.parametrize("crash_at", ["", "settle", "settle.written:x", "settle.written:1:pause"])
def test_a_point_that_is_none_is_said_at_the_start(crash_at: str) -> None:
    with pytest.raises(ConfigurationError, match="RUNSTREAM_CRASH_AT"):
        arm(crash_at)
    assert crash_points._trap.point is None, "what was refused is not done in part"
