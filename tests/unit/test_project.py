"""What stands in two places says the same in both."""

import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())


def test_development_has_the_servers_that_the_embedded_extra_has() -> None:
    """The group cannot refer to the extra: the lock would carry the path of the checkout that it was compiled in."""
    embedded = PROJECT["project"]["optional-dependencies"]["embedded"]
    assert [need for need in PROJECT["dependency-groups"]["dev"] if need in embedded] == embedded
