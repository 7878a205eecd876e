"""What documents and components print as examples: command lines, calls, and blocks of code."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

from llmasos.system.components import load_component
from llmasos.system.discovery import registry
from llmasos_hookspecs.kinds import KINDS

ROOT: Final = Path(__file__).parents[1]
DOCUMENTS: Final = [
    path
    for pattern in ("*.md", "docs/**/*.md", "core/*.md", "hookspecs/*.md", "libs/*/*.md", "plugins/*/*.md", "examples/*/*.md")
    for path in sorted(ROOT.glob(pattern))
]


_BLOCK: Final = re.compile(
    r"(?P<before>[^\n]*\n)?^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)


@attrs.frozen
class Printed:
    """One command line.

    Attributes:
        where: the document, or the component.
        line: from the word ``llmasos`` on.
        environment: variables that are set before it.
    """

    where: str
    line: str
    environment: Mapping[str, str] = attrs.field(factory=dict, eq=False)

    @property
    def words(self) -> list[str]:
        """Those after ``llmasos``."""
        return shlex.split(self.line, comments=True)[1:]


def in_documents() -> Iterator[Printed]:
    """Those that stand in a block of code: indented by four, or behind a prompt."""
    for path in DOCUMENTS:
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.match(r"    \S|\$ ", line):
                for part in line.removeprefix("$ ").split("&&"):
                    if found := re.match(r"\s*((?:\w+=\S+ )*)(?:\.venv/bin/)?(llmasos [a-z].*)", part):
                        variables = dict(each.split("=", 1) for each in found[1].split())
                        yield Printed(path.relative_to(ROOT).as_posix(), found[2].strip(), variables)


def of_components() -> Iterator[Printed]:
    """What ``llmasos tasks`` and ``plugins show`` print."""
    for where, example in examples():
        if example.startswith("llmasos "):
            yield Printed(where, example)


def calls() -> Iterator[tuple[str, str]]:
    """The examples of components that are Python: component, and call."""
    for where, example in examples():
        if not example.startswith("llmasos "):
            yield where, example


@functools.cache
def examples() -> tuple[tuple[str, str], ...]:
    return tuple(
        (entry.label, example)
        for kind in KINDS
        for entry in registry().entries(kind)
        for example in load_component(entry).component.examples
    )


def blocks(path: Path) -> list[tuple[str, str, bool]]:
    """The fenced blocks of a document: language, text, and whether a comment before it says that it is not run."""
    found = []
    for block in _BLOCK.finditer(path.read_text(encoding="utf-8")):
        lines = block["code"].splitlines(keepends=True)
        code = "".join(line.removeprefix(block["indent"]) for line in lines)
        found.append((block["language"], code, "<!-- not run:" in (block["before"] or "")))
    return found
