"""Every command of the command line that a document or a component's example prints is one that it understands."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from llmasos.cli.app import app
from llmasos.system.components import load_component
from llmasos.system.discovery import registry
from llmasos_hookspecs.kinds import KINDS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/**/*.md", "core/*.md", "libs/*/*.md", "plugins/*/*.md", "examples/*/*.md")
    for path in ROOT.glob(pattern)
]


def own_verbs(document: Path) -> set[str]:
    """The verbs that the package of a document brings: its installation test runs them."""
    file = document.parent / "pyproject.toml"
    points = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {}).get("entry-points", {}) if file.is_file() else {}
    return set(points.get("llmasos.commands", {}))


def commands() -> Iterator[tuple[str, str]]:
    for path in sorted(DOCUMENTS):
        for line in path.read_text(encoding="utf-8").splitlines():
            # Indented by four, as a block of code, or behind a prompt; assignments of environment variables may stand before it.
            if re.match(r"    \S|\$ ", line):
                for part in line.removeprefix("$ ").split("&&"):
                    found = re.match(r"\s*(?:\w+=\S+ )*(?:\.venv/bin/)?(llmasos [a-z].*)", part)
                    if found and found[1].split()[1] not in own_verbs(path):
                        yield str(path.relative_to(ROOT)), found[1]


def printed() -> Iterator[tuple[str, str]]:
    """What ``llmasos tasks`` and ``plugins show`` print as examples of the command line."""
    for kind in KINDS:
        for entry in registry().entries(kind):
            for example in load_component(entry).component.examples:
                if example.startswith("llmasos "):
                    yield entry.label, example


def test_the_command_line_understands_the_examples_of_every_component() -> None:
    """And every task has one."""
    found = list(printed())
    for label, example in found:
        understood(label, example)
    assert {entry.label for entry in registry().entries("task")} <= {label for label, _ in found}


@pytest.mark.parametrize(("document", "command"), list(commands()))
def test_the_command_line_understands_it(document: str, command: str) -> None:
    understood(document, command)


def understood(document: str, command: str) -> None:
    arguments = shlex.split(command, comments=True)[1:]
    group = typer.main.get_command(app)
    context = group.make_context("llmasos", list(arguments))
    while hasattr(group, "commands"):
        name, group, arguments = group.resolve_command(context, [*context._protected_args, *context.args])
        assert group is not None, document
        context = group.make_context(name, arguments, parent=context)


def test_documents_print_commands() -> None:
    """The search for them finds what stands in the packages' first lines."""
    assert len({document for document, _ in commands()}) > 10
