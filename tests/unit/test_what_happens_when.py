"""Each row of the tables of faults, in the README and in docs/, names a test that there is."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGES = (TESTS.parent / "README.md", TESTS.parent / "docs" / "what-happens-when.md")


def test_every_row_names_a_test_that_there_is() -> None:
    named = [re.fullmatch(r"\| .* \| `(test_\w+)` \|", row) for page in PAGES for row in rows(page)]
    assert named
    assert all(named), "a row names no test"
    assert {match[1] for match in named if match} - set(existing()) == set()


def rows(page: Path) -> list[str]:
    section = re.search(r"^##? What happens when\b(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert section, f"{page.name} has no section 'What happens when'."
    found = [line for line in section[1].splitlines() if line.startswith("| ")][2:]
    assert found, f"{page.name} has no table of what happens when."
    return found


def existing() -> list[str]:
    return [
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)
    ]
