"""Checks of the built site: every link leads somewhere, nothing is fetched from elsewhere, and the search knows every option."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from tools.site import pages
from tools.site.components import option_names

SITE: Final = pages.ROOT / "site"
#: Attributes whose targets a browser fetches by itself, by tag.
_FETCHED: Final = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}


class _Page(HTMLParser):
    """The anchors of a page, its links, and what it fetches."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        self.anchors |= {found[key] for key in ("id", "name") if key in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(found["href"])
        elif _FETCHED.get(tag) in found:
            self.fetched.append(found[_FETCHED[tag]])


def problems() -> Iterator[str]:
    """One sentence for each fault of the built site."""
    found = {path: _read(path) for path in sorted(SITE.rglob("*.html")) if "distillation" not in path.parts}
    for path, page in found.items():
        name = path.relative_to(SITE)
        for target in page.fetched:
            if urlsplit(target).netloc:
                yield f"{name} fetches {target} from elsewhere."
            elif not _file(path, target).exists():
                yield f"{name} fetches {target}, which is not there."
        for target in page.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = _file(path, target) if parts.path else path
            if not file.exists():
                yield f"{name} leads to {target}, which is not there."
            elif parts.fragment and file in found and unquote(parts.fragment) not in found[file].anchors:
                yield f"{name} leads to {target}, and that page has no such anchor."
    yield from _not_found(option_names())


def _file(page: Path, target: str) -> Path:
    """The file of the site that a page's target names; one that begins with a slash is meant from the site's root."""
    path = unquote(urlsplit(target).path)
    file = (SITE / path.lstrip("/") if path.startswith("/") else page.parent / path).resolve()
    return file / "index.html" if file.is_dir() else file


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _not_found(names: set[str]) -> Iterator[str]:
    """The options that no section of the search's index has as a word."""
    index = json.loads((SITE / "search" / "search_index.json").read_text(encoding="utf-8"))
    separator = re.compile(index["config"]["separator"])
    texts = [re.sub(r"<[^>]+>", " ", section[key]) for section in index["docs"] for key in ("title", "text")]
    words = {word for text in texts for word in separator.split(text)}
    for name in sorted(names - words):
        yield f"The search does not find the option {name}."


def main() -> int:
    """Print every fault; the exit code is 1 where there is one."""
    faults = sorted(set(problems()))
    for fault in faults:
        print(fault, file=sys.stderr)
    count = len(list(SITE.rglob("*.html")))
    print(f"{SITE / 'index.html'}: {count} pages, {len(faults)} faults; the search finds {len(option_names())} options by their names.")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
