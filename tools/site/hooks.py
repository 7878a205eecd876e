"""What mkdocs calls while it builds the site: generated pages are added, and links between documents become links between pages."""

from __future__ import annotations

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from tools.site import pages
from tools.site.links import rewritten


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation, where an entry ends in ``*``."""
    made = sorted(pages.generated())
    for section, pattern in _sections(config.nav or []):
        place = section.index(pattern)
        section[place : place + 1] = [page for page in made if page.startswith(pattern.removesuffix("*"))]
    return config


def _sections(entries: list[Any]) -> list[tuple[list[Any], str]]:
    """The lists of the navigation in which an entry ends in ``*``, with that entry."""
    found = [(entries, entry) for entry in entries if isinstance(entry, str) and entry.endswith("*")]
    for entry in entries:
        if isinstance(entry, dict):
            for below in entry.values():
                found += _sections(below) if isinstance(below, list) else []
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for uri, markdown in pages.generated().items():
        files.append(File.generated(config, uri, content=markdown))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links that leave the folder docs/ to the pages that their documents have."""
    uri = page.file.src_uri
    return markdown if page.file.generated_by else rewritten(markdown, f"docs/{uri}", uri, pages.published())
