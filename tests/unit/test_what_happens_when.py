"""Each row of the README's table of faults names a test that there is."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
README = TESTS.parent / "README.md"


def test_every_row_names_a_test_that_there_is() -> None:
    named = [re.fullmatch(r"\| .* \| `(test_\w+)` \|", row) for row in rows()]
    assert named
    assert all(named), "a row names no test"
    assert {match[1] for match in named if match} - set(existing()) == set()


def rows() -> list[str]:
    section = re.search(r"^## What happens when$(.*?)(?=^## |\Z)", README.read_text(), re.MULTILINE | re.DOTALL)
    assert section, "README.md has no section '## What happens when'."
    return [line for line in section[1].splitlines() if line.startswith("| ")][2:]


def existing() -> list[str]:
    return [
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)
    ]
