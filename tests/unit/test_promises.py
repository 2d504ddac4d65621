"""Every promise that the README makes is shown by a test that names it, and no test names another.

The README makes them under the heading "## Promises", each by its id in bold: `**P1**`. A test carries
`@pytest.mark.promise("P1")`, or several ids.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
README = TESTS.parent / "README.md"


def test_every_promise_of_the_readme_is_shown_by_a_test() -> None:
    assert made() - set(shown()) == set()


def test_no_test_shows_a_promise_that_the_readme_does_not_make() -> None:
    known = made()
    assert {promise: place for promise, place in shown().items() if promise not in known} == {}


def made() -> set[str]:
    section = re.search(r"^## Promises$(.*?)(?=^## |\Z)", README.read_text(), re.MULTILINE | re.DOTALL)
    assert section, "README.md has no section '## Promises'."
    promises = set(re.findall(r"\*\*(P\d+)\b", section[1]))
    assert promises, "README.md's promises have no ids such as **P1**."
    return promises


def shown() -> dict[str, str]:
    """The ids in the tests' marks, each with a place where it stands."""
    return {
        promise: f"{file.relative_to(TESTS)}:{line}"
        for file in TESTS.rglob("test_*.py")
        for promise, line in marks(file)
    }


def marks(file: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.promise":
            for argument in node.args:
                yield ast.literal_eval(argument), node.lineno
