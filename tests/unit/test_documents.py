"""What the README and docs/ say twice they say alike, and where they point to there is something."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_links_lead_to_what_there_is(page: Path) -> None:
    for place, _, heading in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]*))?\)", page.read_text()):
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), place
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", PAGES[0].read_text()))
    assert {page.name for page in PAGES[1:]} == linked


def test_the_readmes_figures_are_those_that_were_measured_together() -> None:
    section = re.search(r"^## Figures$(.*?)^## ", PAGES[0].read_text(), re.MULTILINE | re.DOTALL)
    assert section
    rows = [line for line in section[1].splitlines() if line.startswith("| ")][1:]
    assert rows
    assert set(rows) <= set((ROOT / "docs" / "figures.md").read_text().splitlines())


def test_the_readme_can_be_read_in_three_minutes() -> None:
    """Tables are looked up, not read: of prose, a reader takes 230 words in a minute."""
    prose = [line for line in PAGES[0].read_text().splitlines() if not line.startswith(("|", "    "))]
    assert len(" ".join(prose).split()) < 3 * 230 + 100
