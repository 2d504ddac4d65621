"""`.env.example` is what an operator reads: it neither lacks a setting nor shows a default that is not one."""

from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
from dotenv import dotenv_values

from runstream.settings import Settings

EXAMPLE = (Path(__file__).parents[2] / ".env.example").read_text()
VARIABLES = [f"RUNSTREAM_{field.upper()}" for field in Settings.model_fields]


def shown() -> dict[str, str]:
    """The example's variables, as they are read once the line is in force; "" where it shows no value."""
    values = dotenv_values(stream=StringIO(EXAMPLE.replace("#RUNSTREAM_", "RUNSTREAM_")))
    return {name: value or "" for name, value in values.items() if name.startswith("RUNSTREAM_")}


def test_the_example_lists_every_setting_in_the_settings_order() -> None:
    assert list(shown()) == VARIABLES


def test_the_example_shows_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in shown().items():
        if value:
            monkeypatch.setenv(name, value)
    assert Settings(_env_file=None) == Settings.model_construct()


def test_each_setting_has_a_line_that_explains_it() -> None:
    explained = [before.startswith("# ") for before, line in pairwise(EXAMPLE.splitlines()) if "#RUNSTREAM_" in line]
    assert explained == [True] * len(VARIABLES)
