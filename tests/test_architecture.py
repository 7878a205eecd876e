"""The dotted names in docs/architecture.md and docs/glossary.md exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {page: (DOCS / f"{page}.md").read_text(encoding="utf-8") for page in ("architecture", "glossary")}
NAMES = {page: sorted(set(re.findall(r"`(llmasos\w*(?:\.\w+)+)`", text))) for page, text in PAGES.items()}


@pytest.mark.parametrize(("page", "least"), [("architecture", 40), ("glossary", 10)])
def test_the_page_names_code(page: str, least: int) -> None:
    """The check below has names to check."""
    assert len(NAMES[page]) > least


@pytest.mark.parametrize("name", sorted({name for names in NAMES.values() for name in names}))
def test_every_name_on_the_page_exists(name: str) -> None:
    """A dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return
    raise AssertionError(f"{name} cannot be found")
