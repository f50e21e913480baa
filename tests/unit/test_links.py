# SPDX-License-Identifier: MIT
"""Links in the documentation lead to existing files and headings, and hints to projects that exist."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    *REPOSITORY.glob("*.md"),
    *(
        page
        for directory in ("docs", "examples", "benchmarks")
        for page in REPOSITORY.glob(f"{directory}/**/*.md")
    ),
]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]*)\)")


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings: list[str] = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_no_hint_names_a_project_that_no_index_has() -> None:
    """Of the extras, a page or message names the project that is missing: pip does not find memnotify."""
    modules = REPOSITORY.glob("memnotify/**/*.py")
    hints = [page.name for page in (*PAGES, *modules) if "pip install 'memnotify" in page.read_text()]
    assert hints == []
