"""Links of a document of the repository, as links between the pages of the site."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Final

_LINK: Final = re.compile(r"(?<!\\)(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)")
_FENCE: Final = re.compile(r"^( *)(```+|~~~+)")


def outside_code(markdown: str) -> Iterator[tuple[int, str]]:
    """The lines that are no code, fenced or indented by four, with their numbers from 1."""
    fence = ""
    for number, line in enumerate(markdown.splitlines(), start=1):
        opened = _FENCE.match(line)
        if fence:
            fence = "" if line.strip() == fence else fence
        elif opened:
            fence = opened[2]
        elif not line.startswith("    "):
            yield number, line


def targets(markdown: str) -> list[str]:
    """Where the links of a document lead, those in code left out."""
    plain = [re.sub(r"`[^`]*`", "", line) for _, line in outside_code(markdown)]
    return [found["target"] for line in plain for found in _LINK.finditer(line)]


def is_relative(target: str) -> bool:
    """Whether a link leads to a file beside its own."""
    return not re.match(r"[a-z][a-z0-9+.-]*:|#|/", target)


def rewritten(markdown: str, source: str, page: str, published: Mapping[str, str]) -> str:
    """The text of a page whose relative links lead to pages of the site.

    Args:
        markdown: a document of the repository.
        source: its path from the root of the repository, such as ``plugins/sched_fifo/README.md``.
        page: where the site has it, such as ``packages/llmasos-sched-fifo.md``.
        published: path from the root of the repository -> page. A link to any other file keeps its text only.
    """

    def to_page(found: re.Match[str]) -> str:
        path, hash_, anchor = found["target"].partition("#")
        if not is_relative(found["target"]):
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target not in published:
            return found["text"]
        relative = posixpath.relpath(published[target], posixpath.dirname(page) or ".")
        return f"{found['image']}[{found['text']}]({relative}{hash_}{anchor})"

    lines = markdown.splitlines()
    for number, line in outside_code(markdown):
        lines[number - 1] = _LINK.sub(to_page, line)
    return "\n".join(lines) + "\n"
